"""How AWS is asked: credentials of the standard chain and signatures by aiobotocore, requests by ourselves.

aiobotocore's own clients load megabytes of API descriptions, read answers of any size, and spend three times as long
on parsing them (docs/adr/0020).
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import aiohttp
import yarl

from upstreamd.config import AWSAccount
from upstreamd.discover.admit import shown, shown_bytes
from upstreamd.discover.aws_answers import failure
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.errors import ConfigError, DiscoveryError, Problem

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

MAX_BYTES = 32 * 1024 * 1024

AUTO_SCALING: Final = "autoscaling"
EC2: Final = "ec2"
_VERSIONS = {AUTO_SCALING: "2011-01-01", EC2: "2016-11-15"}
_ENDPOINT_VARIABLES = {AUTO_SCALING: "AWS_ENDPOINT_URL_AUTO_SCALING", EC2: "AWS_ENDPOINT_URL_EC2"}

_THROTTLED = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException"}
)
_FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "OptInRequired"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_NOT_BELIEVED = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


class Refused(DiscoveryError):  # noqa: N818 - what AWS did, not what went wrong with us
    """AWS said no; `code` is its own word for the reason."""

    def __init__(self, reason: str, *, kind: str, code: str) -> None:
        super().__init__(reason, kind=kind)
        self.code = code


class Account:
    """One account, asked by every region's source. Made outside the loop; sessions are made inside it."""

    def __init__(self, settings: AWSAccount, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._chain: AioSession | None = None
        self._http: aiohttp.ClientSession | None = None
        self._hosts: dict[tuple[str, str], str] = {}
        self._users = 0

    def join(self) -> None:
        """One more source asks through this account."""
        self._users += 1

    async def leave(self) -> None:
        """One source less; with the last, the connections are given back."""
        self._users -= 1
        http, self._http = (self._http, None) if self._users <= 0 else (None, self._http)
        if http is not None:
            await http.close()

    async def ask(self, service: str, region: str, action: str, parameters: Mapping[str, str]) -> bytes:
        """The answer of `service` in `region` (empty: the chain's) to one question, at most `MAX_BYTES`.

        Raises DiscoveryError (unreachable, timeout, denied, throttled, status, malformed, too_large).
        """
        region = region or self._own_region()
        whom = f"AWS {'Auto Scaling' if service == AUTO_SCALING else 'EC2'} in {region}"
        form = urllib.parse.urlencode({"Action": action, "Version": _VERSIONS[service], **parameters}).encode()
        url = await self._url(service, region)
        headers = await self._signed(service, region, url, form)
        with translated(whom, "is the region right, and may this machine reach it (VPC endpoint, NAT)?"):
            async with self._opened().post(
                yarl.URL(url, encoded=True),
                data=form,
                headers={**IDENTITY, **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout, sock_connect=5.0),
            ) as response:
                content = await body(response, MAX_BYTES, whom)
        if response.status != 200:
            raise self._refusal(response.status, content, whom, f"{service}:{action}")
        return content

    def _refusal(self, status: int, content: bytes, whom: str, action: str) -> Refused:
        code, message = failure(content)
        said = f"{shown(code, 60)}: {shown(message, 200)}" if code else f"{status} {shown_bytes(content)}"
        if code in _THROTTLED or status == 429:
            return Refused(f"{whom} asks us to ask less often ({said}); we do", kind="throttled", code=code)
        self._forget_credentials(code)
        if code in _FORBIDDEN:
            remedy = "attach deploy/aws/policy.json to the role or user"
            return Refused(f"{whom} refuses {action} ({said}); {remedy}", kind="denied", code=code)
        if code in _EXPIRED:
            remedy = "renew them where they come from (role, profile, environment), or set this machine's clock"
            return Refused(
                f"{whom} says that the credentials have expired ({said}); {remedy}", kind="denied", code=code
            )
        if code in _NOT_BELIEVED:
            remedy = "correct them, their region or this machine's clock"
            return Refused(f"{whom} does not accept the credentials ({said}); {remedy}", kind="denied", code=code)
        return Refused(f"{whom} answered {action} with {status} ({said})", kind="status", code=code)

    def _forget_credentials(self, code: str) -> None:
        """What is refused may have been replaced in a file since: the chain is walked again."""
        if code in _EXPIRED or code in _NOT_BELIEVED:
            self._chain = None

    async def _signed(self, service: str, region: str, url: str, form: bytes) -> dict[str, str]:
        """The headers with which AWS believes the request (Signature Version 4)."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        remedy = "give it a role, a profile (aws.profile) or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        try:
            async with asyncio.timeout(self._settings.timeout):
                credentials = await self._session().get_credentials()
                if credentials is None:
                    raise DiscoveryError(f"no AWS credentials are found; {remedy}", kind="denied")
                frozen = await credentials.get_frozen_credentials()
        except TimeoutError as error:
            raise DiscoveryError(f"AWS credentials are not given in time; {remedy}", kind="timeout") from error
        except (BotoCoreError, OSError, ValueError) as error:
            said = shown(str(error), 160)
            raise DiscoveryError(f"AWS credentials cannot be had ({said}); {remedy}", kind="denied") from error
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        request = AWSRequest(method="POST", url=url, data=form, headers=headers)
        SigV4Auth(frozen, service, region).add_auth(request)
        return dict(request.headers.items())

    async def _url(self, service: str, region: str) -> str:
        """Where a service is in a region: as configured, else as the environment says, else AWS's own name."""
        from botocore.exceptions import BotoCoreError

        named = (
            self._settings.endpoint
            or self._environ.get(_ENDPOINT_VARIABLES[service], "")
            or self._environ.get("AWS_ENDPOINT_URL", "")
        )
        if named:
            return f"{named.rstrip('/')}/"
        if (service, region) not in self._hosts:
            try:
                # reads a large table, beside the loop
                self._hosts[service, region] = await asyncio.to_thread(self._host, service, region)
            except (BotoCoreError, OSError, ValueError) as error:
                raise DiscoveryError(f"AWS has no {service} in {shown(region)}; correct the region") from error
        return f"https://{self._hosts[service, region]}/"

    def _host(self, service: str, region: str) -> str:
        endpoint = self._session().get_component("endpoint_resolver").construct_endpoint(service, region)
        if endpoint is None:
            raise ValueError("no such endpoint")
        return str(endpoint["hostname"])

    def _own_region(self) -> str:
        """The region that environment or profile name. Raises DiscoveryError where there is none."""
        from botocore.exceptions import BotoCoreError

        try:
            found = self._environ.get("AWS_REGION", "") or self._session().get_config_variable("region")
        except (BotoCoreError, OSError, ValueError) as error:
            reason = f"the AWS profile cannot be used ({shown(str(error), 160)}); correct aws.profile or ~/.aws/config"
            raise DiscoveryError(reason, kind="denied") from error
        if not found:
            raise DiscoveryError(
                'no AWS region is known; set services.NAME.aws.regions = ["eu-west-1"], or AWS_REGION', kind="denied"
            )
        return str(found)

    def _session(self) -> AioSession:
        if self._chain is None:
            from aiobotocore.session import AioSession

            self._chain = AioSession(profile=self._settings.profile or None)
        return self._chain

    def _opened(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._http


def account(settings: AWSAccount, environ: Mapping[str, str]) -> Account:
    """The account that `[aws]` describes. Raises ConfigError where the libraries for it are not installed."""
    try:
        import aiobotocore.session  # noqa: F401 - only whether it is there
    except ImportError as error:
        reason = 'a service has an aws section, and the libraries for it are missing: pip install "upstreamd[aws]"'
        raise ConfigError((Problem("aws", "", reason),)) from error
    return Account(settings, environ)
