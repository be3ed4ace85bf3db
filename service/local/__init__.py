"""The laptop stack: Postgres, Valkey, the API and the workers, started together from one data folder."""
