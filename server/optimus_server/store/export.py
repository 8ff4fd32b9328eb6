"""A table of the log as a CSV or Parquet file."""

import csv
from pathlib import Path
from typing import Any

from sqlalchemy import Select, select

from optimus_server.errors import SettingsError
from optimus_server.store.queries import Filter, Log
from optimus_server.store.tables import ChunkDecision, Instance, LoadSample, OperatorAction, Request, RequestText

AT_ONCE = 10_000
TABLES: dict[str, Any] = {
    table.__tablename__: table for table in (Request, RequestText, ChunkDecision, LoadSample, OperatorAction, Instance)
}


def export(log: Log, path: Path, table: str = "requests", which: Filter | None = None) -> int:
    """Write a table's rows in the order of their keys; returns how many.

    Args:
        path: ends in ``.csv`` or ``.parquet``.
        which: of requests, the ones to write.

    Raises:
        SettingsError: another ending, or Parquet without pyarrow.
    """
    kind = TABLES[table].__table__
    query = select(kind).order_by(*kind.primary_key.columns)
    if which and table == "requests":
        query = query.where(*which.conditions())
    if path.suffix == ".csv":
        return _csv(log, path, query)
    if path.suffix == ".parquet":
        return _parquet(log, path, query)
    raise SettingsError(f"the file must end in .csv or .parquet. Given: {path.name}")


def _csv(log: Log, path: Path, query: Select[*tuple[Any, ...]]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in query.selected_columns)
        for rows in log.batches(query, AT_ONCE):
            writer.writerows([value.hex() if isinstance(value, bytes) else value for value in row] for row in rows)
            count += len(rows)
    return count


def _parquet(log: Log, path: Path, query: Select[*tuple[Any, ...]]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise SettingsError("Parquet needs pyarrow: pip install 'optimus-dllm[parquet]'") from None
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(), str: pa.string()}
    schema = pa.schema([(column.name, kinds[column.type.python_type]) for column in query.selected_columns])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in log.batches(query, AT_ONCE):
            columns = [
                pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            file.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(rows)
    return count
