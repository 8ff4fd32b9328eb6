"""Records -> rows of tables."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from optimus_server.store import steps
from optimus_server.store.privacy import Privacy, storable
from optimus_server.store.records import ActionRecord, DecisionRecord, LoadRecord, Record, RequestRecord, StepRecord
from optimus_server.store.tables import (
    Base,
    ChunkDecision,
    LoadSample,
    OperatorAction,
    Request,
    RequestSteps,
    RequestText,
)

Row = tuple[type[Base], dict[str, Any]]

_COPIED = tuple(field.name for field in fields(RequestRecord) if field.name in Request.__table__.columns)
_LONGEST = {name: getattr(column.type, "length", None) or 1000 for name, column in Request.__table__.columns.items()}
_DECISION = tuple(field.name for field in fields(DecisionRecord))
_LOAD = tuple(field.name for field in fields(LoadRecord))


def rows_of(record: Record, instance_id: str, privacy: Privacy) -> list[Row]:
    """The rows of one record, each after those it refers to."""
    match record:
        case RequestRecord():
            return _request(record, instance_id, privacy)
        case DecisionRecord():
            return [(ChunkDecision, {"instance_id": instance_id} | {n: getattr(record, n) for n in _DECISION})]
        case LoadRecord():
            return [(LoadSample, {"instance_id": instance_id} | {n: getattr(record, n) for n in _LOAD})]
        case ActionRecord():
            told = {"detail": storable(record.detail)[:1000], "address": storable(record.address)[:64]}
            action = {"instance_id": instance_id, "t_us": record.t_us, "action": record.action}
            return [(OperatorAction, action | told)]


def insert_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """Write rows, in one statement per table. A row that is there already stays: its commit got through after all."""
    for table in (Request, RequestText, RequestSteps, ChunkDecision, LoadSample, OperatorAction):
        if values := [row for kind, row in rows if kind is table]:
            connection.execute(_insert(connection, table).on_conflict_do_nothing(), values)


def upsert(connection: Connection, table: type[Base], row: dict[str, Any], changing: dict[str, Any]) -> None:
    """Write a row, or of one with the same key what is ``changing``."""
    statement = _insert(connection, table).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changing))


def _insert(connection: Connection, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _request(record: RequestRecord, instance_id: str, privacy: Privacy) -> list[Row]:
    row: dict[str, Any] = {"id": f"{record.created_us:014x}{secrets.token_hex(4)}", "instance_id": instance_id}
    for name in _COPIED:
        value = getattr(record, name)
        row[name] = storable(value)[: _LONGEST[name]] if isinstance(value, str) else value
    kept = privacy.keep(record.prompt, record.output) if record.prompt is not None else None
    row |= {
        "params_json": json.dumps(dict(record.params), default=str),
        "seed": None if record.seed is None else str(record.seed),
        "prompt_hmac": kept and kept.hmac,
        "tokens_per_step": (record.generated_tokens or 0) / record.steps if record.steps else None,
    } | _of_trace(record.trace)
    rows: list[Row] = [(Request, row)]
    if kept and kept.prompt is not None:
        pieces = json.dumps(record.pieces) if record.pieces else None
        text = {"prompt": kept.prompt, "output": kept.output, "pieces_json": pieces, "truncated": kept.truncated}
        rows.append((RequestText, {"request_id": row["id"]} | text))
    if record.trace:
        blob = {"v": steps.VERSION, "n": len(record.trace), "data": steps.encode(record.trace)}
        rows.append((RequestSteps, {"request_id": row["id"]} | blob))
    return rows


def _of_trace(trace: Sequence[StepRecord]) -> dict[str, Any]:
    """The columns that sum up a request's steps."""
    offered = [step for step in trace if step.masks]
    chunks = [step.chunk for step in offered]
    batches = [step.batch for step in trace]
    prefill = offered[0].t_ms - offered[0].step_ms - (trace[0].t_ms - trace[0].step_ms) if offered else None
    return {
        "chunk_min": min(chunks, default=None),
        "chunk_max": max(chunks, default=None),
        "chunk_mean": sum(chunks) / len(chunks) if chunks else None,
        "batch_max": max(batches, default=None),
        "batch_mean": sum(batches) / len(batches) if batches else None,
        "prefill_ms": prefill,
        "ttfc_ms": next((step.t_ms for step in trace if step.positions), None),
    }
