"""Browser side of Optimus; imports nothing of the server and talks to it over HTTP only."""
