"""How people sign in without a key: settings of an OpenID Connect issuer, a trusted proxy, and of roles."""

import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from service.roles import Role

HEADER = "^[A-Za-z0-9-]{1,60}$"
"""A pattern of names of headers."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine, to which http is as safe as https."""


class SignInSettings(BaseSettings):
    """What `Settings` holds of this; nothing here is on by default."""

    oidc_issuer: str | None = None
    """Address of an OpenID Connect issuer, as it names itself. None: nobody signs in that way."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    """None: a public client, which proves itself by PKCE alone."""
    oidc_scopes: str = "openid email profile"
    """What is asked of the issuer, separated by spaces."""
    oidc_groups_claim: str = "groups"
    """Which claim lists a person's groups."""
    oidc_label: str = Field(default="single sign-on", min_length=1, max_length=60)
    """What the sign-in page calls the issuer."""

    sign_in_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Addresses of proxies whose headers say who somebody is. Empty: nobody is believed."""
    proxy_user_header: str = Field(default="X-Forwarded-User", pattern=HEADER)
    """Holds what the proxy calls the person, for good."""
    proxy_email_header: str = Field(default="X-Forwarded-Email", pattern=HEADER)
    proxy_groups_header: str = Field(default="X-Forwarded-Groups", pattern=HEADER)
    """Groups, separated by commas."""

    group_roles: Annotated[dict[str, Role | dict[str, Role]], NoDecode] = Field(default_factory=dict)
    """What members of a group are: a role in the first workspace, or roles by names of workspaces."""
    default_role: Role | None = None
    """In the first workspace, of whoever signs in and has no role anywhere. None: they cannot sign in."""
    first_admin_email: str | None = None
    """Who has it, vouched for, becomes an admin of the first workspace while no person is one."""

    @property
    def people_may_sign_in(self) -> bool:
        """Whether there is a way to sign in without a key."""
        return self.oidc_issuer is not None or bool(self.sign_in_proxies)

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, address: str | None) -> str | None:
        if address is None:
            return None
        try:
            parts = urlsplit(address)
            _ = parts.port
        except ValueError:
            raise ValueError("is no address, such as https://login.example.org") from None
        if parts.username or parts.query or parts.fragment or not parts.hostname:
            raise ValueError("is the issuer's address alone, such as https://login.example.org")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError("begins with https://; http:// is for an issuer on this machine")
        return address

    @field_validator("oidc_scopes")
    @classmethod
    def _scopes(cls, scopes: str) -> str:
        if "openid" not in scopes.split():
            raise ValueError("holds openid among its scopes, as in: openid email profile")
        return " ".join(scopes.split())

    @field_validator("sign_in_proxies", mode="before")
    @classmethod
    def _networks(cls, given: Any) -> Any:
        wrong = 'is a JSON list of addresses or networks, such as ["10.0.0.5", "10.1.0.0/24"]'
        given = _json(given, wrong)
        if not isinstance(given, list | tuple):
            raise ValueError(wrong)
        try:
            return tuple(ip_network(str(one)) for one in given)
        except ValueError:
            raise ValueError(wrong) from None

    @field_validator("group_roles", mode="before")
    @classmethod
    def _roles_of_groups(cls, given: Any) -> Any:
        names = ", ".join(get_args(Role))
        wrong = f"is a JSON object from groups to roles ({names}), or to such an object from workspaces to roles"
        given = _json(given, wrong)
        if not isinstance(given, dict):
            raise ValueError(wrong)
        for roles in given.values():
            for role in roles.values() if isinstance(roles, dict) else (roles,):
                if role not in get_args(Role):
                    raise ValueError(wrong)
        return given

    @field_validator("first_admin_email")
    @classmethod
    def _email(cls, email: str | None) -> str | None:
        if email is not None and not email.strip().partition("@")[2]:
            raise ValueError("is an e-mail address")
        return None if email is None else email.strip().lower()

    @model_validator(mode="after")
    def _client(self) -> Self:
        if self.oidc_issuer is not None and self.oidc_client_id is None:
            raise ValueError("FINETOOTH_OIDC_ISSUER goes with FINETOOTH_OIDC_CLIENT_ID")
        if self.oidc_issuer is None:
            for name in ("oidc_client_id", "oidc_client_secret"):
                if getattr(self, name) is not None:
                    raise ValueError(f"FINETOOTH_{name.upper()} goes with FINETOOTH_OIDC_ISSUER")
        return self


def _json(given: Any, wrong: str) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError(wrong) from None
