"""Who may call a route: each states it in its signature, by a parameter `caller: Public | Viewer | Operator`.

The statement is a dependency that refuses all others. It is also read from the signature, so that the guard
can refuse before a byte of the body is read, and so that no route can be added without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.routing import Match

from blemish.station.security import Caller, Role, check_role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastapi import APIRouter
    from starlette.routing import BaseRoute
    from starlette.types import Scope


def allow_everybody(request: Request) -> Caller:
    """Return the caller, whoever it is."""
    return request.scope["caller"]


def require_viewer(request: Request) -> Caller:
    """Return the caller, a viewer or an operator. Raises Unauthorized for others."""
    check_role(request.scope["caller"], "viewer")
    return request.scope["caller"]


def require_operator(request: Request) -> Caller:
    """Return the caller, an operator. Raises Unauthorized or Forbidden for others."""
    check_role(request.scope["caller"], "operator")
    return request.scope["caller"]


Public = Annotated[Caller, Depends(allow_everybody)]
Viewer = Annotated[Caller, Depends(require_viewer)]
Operator = Annotated[Caller, Depends(require_operator)]

_ROLES: dict[Callable[..., object], Role | None] = {
    allow_everybody: None,
    require_viewer: "viewer",
    require_operator: "operator",
}


def stated_role(route: BaseRoute) -> Role | None:
    """Return the role that a route's signature asks for, None: everybody. Raises LookupError without one."""
    for dependency in route.dependant.dependencies if isinstance(route, APIRoute) else ():
        if dependency.call is not None and dependency.call in _ROLES:
            return _ROLES[dependency.call]
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
        return partial[0] if partial else "viewer"
