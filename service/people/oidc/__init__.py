"""Signing in by OpenID Connect: an authorization code with PKCE, from any issuer that can be discovered."""
