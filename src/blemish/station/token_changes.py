"""Changes of the tokens, which `blemish token` makes beside a running station, for the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.station.security import Tokens

if TYPE_CHECKING:
    from blemish.station.station import Station

WHAT = "tokens"


class TokenChanges:
    """Puts into the log which tokens there are, whenever that is not what the log says last."""

    def __init__(self, station: Station, tokens: Tokens) -> None:
        self.station = station
        self.tokens = Tokens(tokens.file.parent)  # its own reader, as it looks from another thread
        self._logged: dict[str, Any] | None = None

    def __call__(self) -> None:
        """Look once. Raises StoreError; then the next look notes it."""
        if self._logged is None:
            last = self.station.store.acts(what=WHAT, limit=1)
            self._logged = last[0].detail if last else {}
        said = ("role", "created", "expires")
        now = {token.name: {name: getattr(token, name) for name in said} for token in self.tokens.known}
        if now != self._logged:
            self.station.store.note(self.station.act(None, WHAT, detail=now))
            self._logged = now
