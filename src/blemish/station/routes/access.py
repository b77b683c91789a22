"""Who may call a route: each states it in its signature, by a parameter `caller: Public`, or of a role.

The statement is a dependency that refuses all others. It is also read from the signature, so that the guard
can refuse before a byte of the body is read, and so that no route can be added without one. The dependencies
are coroutines, though they wait for nothing: a plain function would be handed to a thread, at each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.routing import Match

from blemish.station.security import ROLES, Caller, Role, check_role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from fastapi import APIRouter
    from starlette.routing import BaseRoute
    from starlette.types import Scope


async def allow_everybody(request: Request) -> Caller:
    """Return the caller, whoever it is."""
    return request.scope["caller"]


def _require(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    async def required(request: Request) -> Caller:
        """Return the caller, who has the role. Raises Unauthorized or Forbidden for others."""
        check_role(request.scope["caller"], role)
        return request.scope["caller"]

    return required


_REQUIRE: dict[Role, Callable[[Request], Awaitable[Caller]]] = {role: _require(role) for role in ROLES}
_STATED: dict[Callable[..., object], Role | None] = {
    allow_everybody: None,
    **{required: role for role, required in _REQUIRE.items()},
}

Public = Annotated[Caller, Depends(allow_everybody)]
Viewer = Annotated[Caller, Depends(_REQUIRE["view"])]
Inspector = Annotated[Caller, Depends(_REQUIRE["inspect"])]
Judge = Annotated[Caller, Depends(_REQUIRE["judge"])]
Engineer = Annotated[Caller, Depends(_REQUIRE["engineer"])]


def stated_role(route: BaseRoute) -> Role | None:
    """Return the role that a route's signature asks for, None: everybody. Raises LookupError without one."""
    for dependency in route.dependant.dependencies if isinstance(route, APIRoute) else ():
        if dependency.call is not None and dependency.call in _STATED:
            return _STATED[dependency.call]
    name = getattr(route, "path", route)
    raise LookupError(f"{name}: its signature does not say who may call it; add `caller: Viewer` or another")


class RouteRoles:
    """The role that each request needs, by the route that it matches."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        """Read the signatures. Raises LookupError for a route that does not say who may call it."""
        self._roles: list[tuple[BaseRoute, Role | None]] = [
            (route, stated_role(route)) for router in routers for route in router.routes
        ]

    def __call__(self, scope: Scope) -> Role | None:
        """Return the role for a request; what no route matches is hidden from those without a token."""
        partial: list[Role | None] = []
        for route, role in self._roles:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return role
            if match is Match.PARTIAL:  # the path is right, the method is not
                partial.append(role)
        return partial[0] if partial else "view"
