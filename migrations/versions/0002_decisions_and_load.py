"""Decisions on the chunk, and load samples."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chunk_decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, comment="counts up"),
        sa.Column("instance_id", sa.String(length=64), nullable=False, comment="the server that decided"),
        sa.Column("t_us", sa.BigInteger(), nullable=False, comment="time of the step"),
        sa.Column("batch", sa.BigInteger(), nullable=False, comment="requests that decoded in the step"),
        sa.Column("queue", sa.BigInteger(), nullable=False, comment="requests waiting"),
        sa.Column("kv", sa.Double(), nullable=False, comment="share of the KV pool in use, 0 to 1"),
        sa.Column("chunk_old", sa.BigInteger(), nullable=False, comment="chunk of a typical row before"),
        sa.Column(
            "chunk_new", sa.BigInteger(), nullable=False, comment="chunk of a typical row now; 0 if none decodes"
        ),
        sa.Column("chunk_min", sa.BigInteger(), nullable=False, comment="smallest chunk of a row in the step"),
        sa.Column("chunk_max", sa.BigInteger(), nullable=False, comment="largest chunk of a row in the step"),
        sa.Column(
            "reason", sa.String(length=64), nullable=False, comment="why, from the short list in engine/telemetry.py"
        ),
        sa.Column(
            "positions", sa.BigInteger(), nullable=False, comment="positions computed in the step, prompt included"
        ),
        sa.Column("prefill", sa.BigInteger(), nullable=False, comment="positions of prompt among them"),
        sa.Column("kv_tokens", sa.BigInteger(), nullable=False, comment="KV tokens read in the step"),
        sa.Column("expected_commits", sa.Double(), nullable=False, comment="tokens expected to be committed"),
        sa.Column("commits", sa.BigInteger(), nullable=False, comment="tokens committed"),
        sa.Column("predicted_ms", sa.Double(), nullable=False, comment="step time the latency model expected"),
        sa.Column("actual_ms", sa.Double(), nullable=False, comment="step time observed"),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_chunk_decisions_instance_id_instances")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunk_decisions")),
    )
    with op.batch_alter_table("chunk_decisions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chunk_decisions_t_us"), ["t_us"], unique=False)

    op.create_table(
        "load_samples",
        sa.Column("t_us", sa.BigInteger(), nullable=False, comment="time of the sample"),
        sa.Column("instance_id", sa.String(length=64), nullable=False, comment="the server"),
        sa.Column("running", sa.BigInteger(), nullable=False, comment="requests being decoded"),
        sa.Column("waiting", sa.BigInteger(), nullable=False, comment="requests queued"),
        sa.Column("batch", sa.Double(), nullable=False, comment="mean rows a step since the sample before"),
        sa.Column("tok_s", sa.Double(), nullable=False, comment="tokens committed per second since then"),
        sa.Column(
            "step_ms_p50", sa.Double(), nullable=True, comment="median step time since then; null without a step"
        ),
        sa.Column("chunk_p50", sa.Double(), nullable=True, comment="median chunk of the rows since then"),
        sa.Column("kv", sa.Double(), nullable=False, comment="share of the KV pool in use, 0 to 1"),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name=op.f("fk_load_samples_instance_id_instances")),
        sa.PrimaryKeyConstraint("t_us", "instance_id", name=op.f("pk_load_samples")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("load_samples")
    with op.batch_alter_table("chunk_decisions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chunk_decisions_t_us"))

    op.drop_table("chunk_decisions")
