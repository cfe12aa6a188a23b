"""Where operators' tools reach a server: a unix socket that only its own user can open."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ext_authz.admin.app import Look, controls_app
from ext_authz.settings import UNIX_PREFIX, Settings
from ext_authz.sockets import bound_unix_socket
from ext_authz.stores.control import ControlStore
from ext_authz.web import serving

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def administering(settings: Settings, look: Look) -> AsyncIterator[None]:
    """Serve the control store on `admin_listen`, if there is such a setting. Raises SettingsError, StoreError."""
    if settings.admin_listen is None or settings.control_store is None:
        yield
        return
    path = Path(settings.admin_listen.removeprefix(UNIX_PREFIX))
    with ControlStore.open(settings.control_store) as store, bound_unix_socket("admin_listen", path) as listener:
        async with serving(controls_app(store, look), listener):
            _LOG.info("administered on %s", settings.admin_listen)
            yield
