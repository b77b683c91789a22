"""The HTTP routes of the station."""
