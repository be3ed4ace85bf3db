"""The OpenID Connect issuer: the address to sign in at, and the person behind the code that comes back."""

import time
from collections.abc import Mapping
from typing import Any

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from service.people.identity import Identity
from service.people.oidc.errors import IssuerError
from service.people.oidc.handshake import Handshake
from service.sign_in_settings import SignInSettings

SECONDS = 10.0
"""How long the issuer may take for one answer."""

KEPT_SECONDS = 3600.0
"""How long the issuer's metadata are kept; unknown keys are fetched at once."""

LEEWAY_SECONDS = 60
"""By how many seconds its clock may be off."""

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""The accepted signature algorithms: those with a public key, never `none` nor one with the client's secret."""


class Issuer:
    """A client of the OpenID Connect issuer. A process keeps one, and its discovered metadata for an hour.

    Args:
        settings: Name the issuer and the client; `oidc_issuer` and `oidc_client_id` are set.
    """

    def __init__(self, settings: SignInSettings) -> None:
        """Prepare a client; nothing is asked yet."""
        self._settings = settings
        self._metadata: dict[str, Any] = {}
        self._keys = KeySet([])
        self._known_until = 0.0
        # Made once: to read all certificates takes longer than to ask.
        self._tls = httpx.create_ssl_context()

    async def address(self, handshake: Handshake, redirect_uri: str) -> str:
        """Return the address at which a browser signs in.

        Args:
            handshake: What was kept of this sign-in.
            redirect_uri: Where the issuer sends the browser back to.

        Raises:
            IssuerError: `unreachable` or `misconfigured`.
        """
        async with self._http() as http:
            metadata = await self._discovered(http)
        client = OAuth2Client(
            None,
            client_id=self._settings.oidc_client_id,
            scope=self._settings.oidc_scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )
        url, _ = client.create_authorization_url(
            metadata["authorization_endpoint"],
            state=handshake.state,
            nonce=handshake.nonce,
            code_verifier=handshake.code_verifier,
        )
        return str(url)

    async def identify(self, code: str, handshake: Handshake, redirect_uri: str) -> Identity:
        """Identify the person who brings a code.

        Args:
            code: What the issuer gave to the browser.
            handshake: What was kept of this sign-in.
            redirect_uri: The one that the browser was sent away with.

        Raises:
            IssuerError: For any of its reasons.
        """
        async with self._http() as http:
            metadata = await self._discovered(http)
            tokens = await self._exchange(http, metadata, code, handshake, redirect_uri)
            claims = await self._verified(http, metadata, tokens, handshake)
            claims |= await self._user_info(http, metadata, tokens, claims)
        return self._identity(metadata["issuer"], claims)

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._tls, timeout=SECONDS, follow_redirects=False)

    async def _discovered(self, http: httpx.AsyncClient) -> dict[str, Any]:
        if time.monotonic() < self._known_until:
            return self._metadata
        issuer = str(self._settings.oidc_issuer).rstrip("/")
        metadata = await _document(http, f"{issuer}/.well-known/openid-configuration")
        # Else one issuer could speak for another (OpenID Connect Discovery, 4.3); the slash alone is often forgotten.
        if str(metadata.get("issuer", "")).rstrip("/") != issuer:
            raise IssuerError("misconfigured", f"it calls itself {str(metadata.get('issuer'))[:200]!r}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(metadata.get(name), str):
                raise IssuerError("misconfigured", f"its configuration has no {name}")
        self._keys = await _keys(http, metadata["jwks_uri"])
        self._metadata, self._known_until = metadata, time.monotonic() + KEPT_SECONDS
        return metadata

    async def _exchange(
        self, http: httpx.AsyncClient, metadata: dict[str, Any], code: str, handshake: Handshake, redirect_uri: str
    ) -> dict[str, Any]:
        url, headers, body = self._client_auth(metadata).prepare("POST", metadata["token_endpoint"], {}, "")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": handshake.code_verifier,
        }
        content = "&".join(part for part in (str(httpx.QueryParams(form)), body) if part)
        headers |= {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        try:
            answer = await http.post(url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise IssuerError("unreachable", type(error).__name__) from error
        tokens = _json(answer)
        if answer.status_code != 200:
            raise IssuerError("code_refused", f"status {answer.status_code}, {str(tokens.get('error'))[:80]!r}")
        if not isinstance(tokens.get("id_token"), str):
            raise IssuerError("token_invalid", "the answer holds no ID token")
        return tokens

    def _client_auth(self, metadata: Mapping[str, Any]) -> ClientAuth:
        secret = self._settings.oidc_client_secret
        if secret is None:
            return ClientAuth(self._settings.oidc_client_id, "", "none")
        # Without the list an issuer takes the first one (OpenID Connect Discovery, 3).
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return ClientAuth(self._settings.oidc_client_id, secret.get_secret_value(), method)

    async def _verified(
        self, http: httpx.AsyncClient, metadata: dict[str, Any], tokens: Mapping[str, Any], handshake: Handshake
    ) -> dict[str, Any]:
        """Return the claims of an ID token that the issuer signed for us and this sign-in, and that has not expired."""
        supported = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(algorithms=sorted(ALGORITHMS & set(supported)), strict_check_header=False)
        client_id = self._settings.oidc_client_id
        options: Any = {
            "iss": {"essential": True, "value": metadata["issuer"]},
            "aud": {"essential": True, "value": client_id},
        }
        params = {"nonce": handshake.nonce, "client_id": client_id, "access_token": tokens.get("access_token")}
        try:
            try:
                token = jwt.decode(tokens["id_token"], self._keys, registry=registry)
            except InvalidKeyIdError:  # signed with a key that it has made since
                self._keys = await _keys(http, metadata["jwks_uri"])
                token = jwt.decode(tokens["id_token"], self._keys, registry=registry)
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise IssuerError("token_invalid", f"{type(error).__name__}: {str(error)[:200]}") from error
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise IssuerError("token_invalid", "sub is not a text")
        return dict(claims)

    async def _user_info(
        self, http: httpx.AsyncClient, metadata: Mapping[str, Any], tokens: Mapping[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the claims of the userinfo endpoint: many issuers give groups and e-mail only there."""
        wanted = {"email", "email_verified", "name", self._settings.oidc_groups_claim} - claims.keys()
        endpoint = metadata.get("userinfo_endpoint")
        if not wanted or not isinstance(endpoint, str) or not isinstance(tokens.get("access_token"), str):
            return {}
        found = await _document(http, endpoint, {"Authorization": f"Bearer {tokens['access_token']}"})
        if found.get("sub") != claims["sub"]:  # OpenID Connect Core, 5.3.2
            raise IssuerError("token_invalid", "the user information is somebody else's")
        # An e-mail of one place is not vouched for by the other.
        if "email" in claims:
            wanted -= {"email_verified"}
        return {name: found[name] for name in wanted & found.keys()}

    def _identity(self, issuer: str, claims: Mapping[str, Any]) -> Identity:
        email = claims.get("email")
        email = _text(email, 254).lower() if isinstance(email, str) else ""
        name = claims.get("name") or claims.get("preferred_username")
        groups = claims.get(self._settings.oidc_groups_claim)
        return Identity(
            issuer=issuer,
            subject=_text(claims["sub"], 255),
            email=email or None,
            email_verified=bool(email) and claims.get("email_verified") in (True, "true"),
            name=(_text(name, 200) or None) if isinstance(name, str) else None,
            groups=tuple(group for group in groups if isinstance(group, str)) if isinstance(groups, list) else (),
        )


async def _document(http: httpx.AsyncClient, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    try:
        answer = await http.get(url, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IssuerError("unreachable", f"{url}: {type(error).__name__}") from error
    if answer.status_code != 200:
        raise IssuerError("misconfigured", f"{url} answers {answer.status_code}")
    return _json(answer)


async def _keys(http: httpx.AsyncClient, url: str) -> KeySet:
    document: Any = await _document(http, url)
    try:
        return KeySet.import_key_set(document)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise IssuerError("misconfigured", f"{url} holds no keys: {type(error).__name__}") from error


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise IssuerError("misconfigured", f"{answer.url.host} answers {answer.status_code} without a JSON object")
    return found


def _text(text: str, most: int) -> str:
    """Cut a claim to the length that is stored, without NUL and halves of characters, which Postgres cannot hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode().strip()[:most]
