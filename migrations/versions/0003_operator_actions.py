"""What operators do on the admin pages."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, comment="counts up"),
        sa.Column("instance_id", sa.String(length=64), nullable=False, comment="the server"),
        sa.Column("t_us", sa.BigInteger(), nullable=False, comment="time of the action"),
        sa.Column("action", sa.String(length=64), nullable=False, comment="login, logout, set, pause, drain, cancel"),
        sa.Column("detail", sa.Text(), nullable=False, comment="what was set to what, or which request"),
        sa.Column("address", sa.String(length=64), nullable=False, comment="where the operator's browser was"),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_operator_actions_instance_id_instances")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operator_actions")),
    )


def downgrade() -> None:
    op.drop_table("operator_actions")
