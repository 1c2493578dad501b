"""Where the clients of a service that serves models go: to the session's gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from rhapsody.inference.replica import Replica
from rhapsody.inference.request import COMPLETIONS, EMBEDDINGS
from rhapsody.services.ground import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rhapsody.inference.gateway_run import OpenGateway
    from rhapsody.services.service import ServiceTask
    from rhapsody.services.states import Address
    from rhapsody.session.models import Models


class ModelOutlet(Outlet):
    """The gateway, as one service's outlet; its replicas are the router's.

    Args:
        service: Whose.
        host: Address to listen on, unless the gateway listens already.
        models: Has router and gateway.
    """

    def __init__(self, service: ServiceTask, host: str, models: Models) -> None:
        self._service, self._host, self._models = service, host, models
        self._gateway: OpenGateway | None = None
        self._replicas: dict[str, list[str]] = {}
        """Uids in the router, one for each model, by that of the service's replica."""

    @override
    async def open(self) -> None:
        self._gateway = await self._models.gateway(self._host)
        self._models.expect(self._service)

    @property
    @override
    def url(self) -> str:
        return "" if self._gateway is None else self._gateway.url

    @property
    @override
    def port(self) -> int:
        return 0 if self._gateway is None else self._gateway.port

    @property
    @override
    def variables(self) -> dict[str, str]:
        """The file with the key for the gateway, as `RHAPSODY_SERVICE_<NAME>_KEY_FILE`."""
        variable = f"{self._service.variable.removesuffix('_URL')}_KEY_FILE"
        return {} if self._gateway is None else {variable: str(self._gateway.key_file)}

    @property
    @override
    def key_file(self) -> Path | None:
        return None if self._gateway is None else self._gateway.key_file

    @override
    def add(self, address: Address) -> None:
        service, key = self._service, self._key()
        probe_path = EMBEDDINGS if service.embeds else COMPLETIONS
        self.remove(address.uid)
        uids = self._replicas[address.uid] = []
        for model in service.models:
            uid = address.uid if len(service.models) == 1 else f"{address.uid}/{model}"
            self._models.add(Replica(uid, address.url, model, key, probe_path=probe_path))
            uids.append(uid)

    def _key(self) -> Callable[[], str] | None:
        """Return what gives the key that replicas want to see."""
        name, secrets = self._service.key, self._service.secrets
        return None if name is None else lambda: secrets[name]

    @override
    async def drain(self, uid: str, within_s: float) -> None:
        for each in self._replicas.get(uid, ()):
            await self._models.drain(each, within_s)

    @override
    def remove(self, uid: str) -> None:
        for each in self._replicas.pop(uid, ()):
            self._models.remove(each)

    @override
    async def aclose(self) -> None:
        for uid in list(self._replicas):
            self.remove(uid)
        self._models.forget(self._service)
