"""Requests, their steps and their text."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=64), nullable=False, comment="sorts by start"),
        sa.Column("started_us", sa.BigInteger(), nullable=False, comment="start of the server"),
        sa.Column(
            "stopped_us",
            sa.BigInteger(),
            nullable=True,
            comment="its end; null while it runs, and for ever if it was killed",
        ),
        sa.Column("version", sa.String(length=64), nullable=False, comment="of Optimus"),
        sa.Column(
            "git_sha", sa.String(length=64), nullable=True, comment="commit of Optimus, where it runs from a checkout"
        ),
        sa.Column("model_id", sa.Text(), nullable=False, comment="as served; gen_ai.request.model"),
        sa.Column(
            "model_sha",
            sa.String(length=64),
            nullable=True,
            comment="first 16 hex digits of the SHA-256 of the checkpoint's config",
        ),
        sa.Column("block_size", sa.BigInteger(), nullable=True, comment="positions of a block, B"),
        sa.Column(
            "logit_shift",
            sa.BigInteger(),
            nullable=True,
            comment="1 if the output at a position predicts the next one, else 0",
        ),
        sa.Column("device", sa.String(length=64), nullable=False, comment="cpu, cuda"),
        sa.Column(
            "settings_json", sa.Text(), nullable=False, comment="settings that differ from their defaults, without keys"
        ),
        sa.Column(
            "recorded",
            sa.BigInteger(),
            nullable=False,
            comment="requests, decisions and load samples this instance has written",
        ),
        sa.Column(
            "dropped",
            sa.BigInteger(),
            nullable=False,
            comment="records and steps this instance had to drop; its server log says why",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    op.create_table(
        "requests",
        sa.Column(
            "id",
            sa.String(length=24),
            nullable=False,
            comment="arrival in microseconds, then 32 random bits, all in hex",
        ),
        sa.Column(
            "request_id",
            sa.String(length=128),
            nullable=False,
            comment="x-request-id, which a client may repeat; gen_ai.response.id",
        ),
        sa.Column(
            "choice", sa.BigInteger(), nullable=False, comment="which of its HTTP request's prompts and choices, from 0"
        ),
        sa.Column("instance_id", sa.String(length=64), nullable=False, comment="the server that answered"),
        sa.Column("created_us", sa.BigInteger(), nullable=False, comment="arrival of the request"),
        sa.Column("endpoint", sa.String(length=64), nullable=False, comment="path of the route"),
        sa.Column(
            "stream",
            sa.Boolean(),
            nullable=True,
            comment="whether a stream was asked for; null if the body was not understood",
        ),
        sa.Column(
            "client",
            sa.String(length=64),
            nullable=True,
            comment="keyed hash of the API key, 8 bytes in hex; null without a key",
        ),
        sa.Column(
            "user_agent", sa.String(length=200), nullable=True, comment="the client's library, first 200 characters"
        ),
        sa.Column(
            "status",
            sa.BigInteger(),
            nullable=False,
            comment="HTTP status; 499 if the client left before the first byte",
        ),
        sa.Column(
            "error_type",
            sa.String(length=64),
            nullable=True,
            comment="code of the error, also of one after the first byte",
        ),
        sa.Column(
            "error", sa.Text(), nullable=True, comment="its message; holds sizes and names, never text of a prompt"
        ),
        sa.Column(
            "finish_reason",
            sa.String(length=64),
            nullable=True,
            comment="eos_token, length, stop_sequence, cancelled; gen_ai.response.finish_reasons",
        ),
        sa.Column("cancelled", sa.Boolean(), nullable=False, comment="the client left before the end"),
        sa.Column(
            "params_json",
            sa.Text(),
            nullable=True,
            comment="decoding parameters that differ from Optimus's defaults; temperature is gen_ai.request.temperature, top_p gen_ai.request.top_p",
        ),
        sa.Column(
            "seed",
            sa.String(length=20),
            nullable=True,
            comment="decimal: it may need 64 bits without a sign; gen_ai.request.seed",
        ),
        sa.Column("policy", sa.String(length=64), nullable=True, comment="decoding policy"),
        sa.Column(
            "prompt_hmac",
            sa.LargeBinary(),
            nullable=True,
            comment="HMAC-SHA256 of the prompt: equal prompts have equal values",
        ),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True, comment="gen_ai.usage.input_tokens"),
        sa.Column("max_new_tokens", sa.BigInteger(), nullable=True, comment="gen_ai.request.max_tokens"),
        sa.Column(
            "generated_tokens",
            sa.BigInteger(),
            nullable=True,
            comment="tokens sent, the end token included; gen_ai.usage.output_tokens",
        ),
        sa.Column("wasted_tokens", sa.BigInteger(), nullable=True, comment="tokens committed but never sent"),
        sa.Column("prefix_hit_tokens", sa.BigInteger(), nullable=True, comment="prompt tokens whose KV was shared"),
        sa.Column(
            "computed_positions",
            sa.BigInteger(),
            nullable=True,
            comment="positions computed beyond the prompt, once per step",
        ),
        sa.Column("steps", sa.BigInteger(), nullable=True, comment="steps after prefill"),
        sa.Column("blocks", sa.BigInteger(), nullable=True, comment="blocks the answer touches"),
        sa.Column(
            "chunk_min", sa.BigInteger(), nullable=True, comment="smallest chunk of the steps that offered masks"
        ),
        sa.Column("chunk_max", sa.BigInteger(), nullable=True, comment="largest chunk of those"),
        sa.Column("chunk_mean", sa.Double(), nullable=True, comment="mean chunk of those"),
        sa.Column("tokens_per_step", sa.Double(), nullable=True, comment="generated_tokens / steps"),
        sa.Column("batch_mean", sa.Double(), nullable=True, comment="mean number of rows in its steps"),
        sa.Column("batch_max", sa.BigInteger(), nullable=True, comment="largest number of rows in its steps"),
        sa.Column("queue_depth_in", sa.BigInteger(), nullable=True, comment="requests that waited when it arrived"),
        sa.Column("validation_ms", sa.Double(), nullable=True, comment="arrival to valid prompt"),
        sa.Column("queue_ms", sa.Double(), nullable=True, comment="valid prompt to its first row"),
        sa.Column("prefill_ms", sa.Double(), nullable=True, comment="first row to the first step that offered masks"),
        sa.Column("ttfc_ms", sa.Double(), nullable=True, comment="arrival to the first committed position"),
        sa.Column(
            "ttft_ms",
            sa.Double(),
            nullable=True,
            comment="arrival to the first token sent; gen_ai.server.time_to_first_token",
        ),
        sa.Column("decode_ms", sa.Double(), nullable=True, comment="first row to the end of decoding"),
        sa.Column(
            "total_ms", sa.Double(), nullable=False, comment="arrival to the last byte; gen_ai.server.request.duration"
        ),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name=op.f("fk_requests_instance_id_instances")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_requests_client_created_us"), ["client", "created_us"], unique=False)
        batch_op.create_index(
            "ix_requests_created",
            [
                "created_us",
                "status",
                "client",
                "endpoint",
                "finish_reason",
                "cancelled",
                "total_ms",
                "ttft_ms",
                "prompt_tokens",
                "generated_tokens",
                "steps",
                "computed_positions",
            ],
            unique=False,
        )
        batch_op.create_index(
            "ix_requests_failed",
            ["created_us"],
            unique=False,
            sqlite_where=sa.text("status >= 400"),
            postgresql_where=sa.text("status >= 400"),
        )
        batch_op.create_index(batch_op.f("ix_requests_request_id"), ["request_id"], unique=False)

    op.create_table(
        "request_steps",
        sa.Column("request_id", sa.String(length=24), nullable=False, comment="requests.id"),
        sa.Column(
            "v",
            sa.BigInteger(),
            nullable=False,
            comment="form of the blob; 1: zlib of a JSON object of columns, see store/steps.py",
        ),
        sa.Column("n", sa.BigInteger(), nullable=False, comment="steps in it"),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="the blob"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_request_steps_request_id_requests"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_steps")),
    )
    op.create_table(
        "request_text",
        sa.Column("request_id", sa.String(length=24), nullable=False, comment="requests.id"),
        sa.Column("prompt", sa.Text(), nullable=False, comment="as written, or as the chat template made it"),
        sa.Column("output", sa.Text(), nullable=False, comment="the answer as it was sent"),
        sa.Column(
            "pieces_json", sa.Text(), nullable=True, comment="characters each token added to the answer, for replay"
        ),
        sa.Column("truncated", sa.Boolean(), nullable=False, comment="prompt or output were cut"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_request_text_request_id_requests"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_text")),
    )


def downgrade() -> None:
    op.drop_table("request_text")
    op.drop_table("request_steps")
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_requests_request_id"))
        batch_op.drop_index(
            "ix_requests_failed", sqlite_where=sa.text("status >= 400"), postgresql_where=sa.text("status >= 400")
        )
        batch_op.drop_index("ix_requests_created")
        batch_op.drop_index(batch_op.f("ix_requests_client_created_us"))

    op.drop_table("requests")
    op.drop_table("instances")
