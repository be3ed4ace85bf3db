"""Long answers: event streams, long polls, and stopping both when the server stops."""
