r"""Looking for a text finds what stands in any script, in tags and addresses, and with or without accents.

`findings` is rewritten with its index: on a large database this takes minutes.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WORDS = """(jsonb_path_query_array(messages, '$[*]."content"'))::text"""
for escape in (r"\\", r"\n", r"\r", r"\t", r"\f", r"\b", r"\""):
    WORDS = f"replace({WORDS}, '{escape}', ' ')"
BEFORE = f"""array_to_tsvector(ARRAY[audit_id]) || to_tsvector('simple'::regconfig, "left"({WORDS}, 100000))"""
AFTER = f"""array_to_tsvector(ARRAY[audit_id]) || search_words("left"({WORDS}, 100000))"""

UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
"""Thai, Lao, Burmese, Khmer, kana, Han; and Hangul, whose particles are written onto the word."""

OTHERS = UNSPACED.replace("[", "[^")

BETWEEN_WORDS = (
    r"[\u0001-\u001f\u0021-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u00d7\u00f7\u200b-\u205e\u3001-\u303f"
    r"\ufe00-\ufe0f\ufeff\uff5f-\uff65]+"
)
"""Punctuation and signs, which Postgres' parser would make tags, addresses and hyphenated words of."""

ASCII = "octet_length({0}) = length({0})"
"""Most texts are, and need less work."""

FUNCTIONS = (
    # Compatibility forms and accents do not count. A sign's expansion may be long, and a tsvector has 1 MiB.
    rf"""
    CREATE FUNCTION search_fold(content text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN regexp_replace(
        CASE WHEN {ASCII.format("content")} THEN content ELSE
            "left"(normalize(regexp_replace(normalize(content, NFKD), '[\u0300-\u036f]+', '', 'g'), NFKC), 100000) END,
        '{BETWEEN_WORDS}', ' ', 'g')
    """,
    rf"""
    CREATE FUNCTION search_spaced(folded text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN {ASCII.format("folded")} THEN folded ELSE regexp_replace(folded, '{UNSPACED}+', ' ', 'g') END
    """,
    # Each character and each pair of neighbours.
    rf"""
    CREATE FUNCTION search_pairs(folded text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN {ASCII.format("folded")} OR folded !~ '{UNSPACED}' THEN '{{}}' ELSE (
        SELECT coalesce(array_agg(DISTINCT one), '{{}}')
        FROM (
            SELECT c, lead(c) OVER (ORDER BY place) AS following
            FROM unnest(string_to_array(folded, NULL)) WITH ORDINALITY AS characters (c, place)
        ) AS neighbours
        CROSS JOIN LATERAL (VALUES (c), (CASE WHEN following ~ '{UNSPACED}' THEN c || following END)) AS of_them (one)
        WHERE c ~ '{UNSPACED}' AND one IS NOT NULL
    ) END
    """,  # noqa: S608  # of constants
    """
    CREATE FUNCTION search_words(content text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT to_tsvector('simple'::regconfig, search_spaced(folded)) || array_to_tsvector(search_pairs(folded))
        FROM (SELECT search_fold(content) OFFSET 0) AS made (folded)
    )
    """,
    # A phrase: its words one after the other, and the pairs of its unspaced parts; of those alone the character.
    rf"""
    CREATE FUNCTION search_phrase(content text) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT phraseto_tsquery('simple'::regconfig, search_spaced(folded)) && coalesce((
            SELECT string_agg(quote_literal(pair), ' & ')
            FROM unnest(search_pairs(folded)) AS pairs (pair)
            WHERE length(pair) = 2 OR folded ~ ('(^|{OTHERS})' || pair || '($|{OTHERS})')
        ), '')::tsquery
        FROM (SELECT search_fold(content) OFFSET 0) AS made (folded)
    )
    """,  # noqa: S608  # of constants
)


def upgrade() -> None:
    """Postgres cannot change what a generated column is made of: it is made anew."""
    for function in FUNCTIONS:
        op.execute(sa.text(function.replace(":", r"\:")))
    _make_search(AFTER)


def downgrade() -> None:
    """The words as they were."""
    _make_search(BEFORE)
    for name in ("phrase", "words", "pairs", "spaced", "fold"):
        op.execute(f"DROP FUNCTION search_{name}(text)")


def _make_search(expression: str) -> None:
    op.drop_index("ix_findings_search", "findings")
    op.drop_column("findings", "search")
    op.add_column("findings", sa.Column("search", TSVECTOR(), sa.Computed(expression, persisted=True), nullable=False))
    op.create_index("ix_findings_search", "findings", ["search"], postgresql_using="gin")
