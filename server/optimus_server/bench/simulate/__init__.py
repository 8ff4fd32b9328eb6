"""``optimus bench simulate``: the real engine and controller, against a latency table and recorded commits."""

from optimus_server.bench.simulate.command import add_arguments, run

__all__ = ["add_arguments", "run"]
