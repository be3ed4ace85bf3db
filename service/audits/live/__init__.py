"""How an audit changes while somebody watches: event streams and long-polls."""
