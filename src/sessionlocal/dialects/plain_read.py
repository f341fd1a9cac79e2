"""Is this statement certainly a plain read? Decided from the final SQL text, whatever built it.

A clean session runs plain reads in autocommit, so a wrong yes could lose an isolation promise or, worse, a write; a wrong no costs one
BEGIN. Hence the rule: one statement that starts like a read, no word that writes or locks, and no function that is not known to be
free of effects. What hides behind a view or an operator cannot be seen here; ``begin()`` covers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

CACHE_SIZE = 4096  # statements. An application has hundreds; IN lists of many lengths make more.

TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*|/\*(?![!M])(?:[^*]|\*(?!/))*\*/)
    | (?P<string>'(?:[^'\\]|'')*')
    | (?P<quoted>"(?:[^"\\]|"")*"|`(?:[^`\\]|``)*`|\[[A-Za-z_][^\]'"]*\])
    | (?P<number>\d[\w.]*)
    | (?P<parameter>%\([^)]*\)s|%s|%%|\$\d+|:[A-Za-z_]\w*|\?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<cast>::)
    | (?P<punctuation>[(),.;])
    | (?P<operator>[-+*/<>=~!@\#%^&|?:{}\[\]]+?)
    """,
    re.VERBOSE,
)

STARTS = frozenset({"SELECT", "VALUES", "WITH", "TABLE", "SHOW", "EXPLAIN", "DESCRIBE", "DESC", "PRAGMA"})
WRITES = frozenset(
    "INSERT UPDATE DELETE MERGE REPLACE TRUNCATE CREATE ALTER DROP GRANT REVOKE COPY LOAD CALL REINDEX VACUUM RENAME COMMENT CLUSTER REFRESH".split()
)
FORBIDDEN = frozenset("INSERT UPDATE DELETE MERGE TRUNCATE INTO OUTFILE DUMPFILE PROCEDURE ANALYZE ANALYSE".split())
READING_PRAGMAS = frozenset(
    "table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list database_list collation_list function_list "
    "compile_options foreign_keys journal_mode synchronous user_version schema_version encoding page_count page_size freelist_count "
    "busy_timeout query_only application_id".split()
)
PRAGMAS_WITH_ARGUMENT = frozenset("table_info table_xinfo index_list index_info index_xinfo foreign_key_list table_list".split())

# Words that may stand before a parenthesis without being a function: syntax, and types with a length.
SYNTAX = frozenset(
    """
    select from where in exists not and or on using as over filter within group partition by order values any some all between like ilike
    case when then else end having limit offset fetch first next union intersect except with recursive materialized lateral join inner left
    right full outer cross natural distinct is null set rows range groups window when interval array row similar escape collate only
    tablesample bernoulli system return of between exclude unbounded preceding following index key force ignore use against mode for
    varchar char character nchar nvarchar varying numeric decimal dec float double precision real integer int bigint smallint tinyint
    mediumint bit varbit timestamp timestamptz time timetz date datetime year text binary varbinary bpchar signed unsigned vector
    halfvec geometry geography generated cube rollup sets grouping asc desc top true false unknown at zone operator div mod xor rlike regexp
    sounds member overlaps isnull notnull glob match cast try_cast escape explain show
    """.split()
)

COMMON = frozenset(
    """
    abs acos asin atan atan2 avg bit_and bit_or bit_xor ceil ceiling char_length character_length coalesce concat concat_ws cos cot count
    cume_dist current_date current_time current_timestamp degrees dense_rank exp first_value floor greatest lag last_value lead least left
    length ln localtime localtimestamp log log10 log2 lower lpad ltrim max min mod now nth_value ntile nullif octet_length percent_rank pi
    position power pow radians rand random rank repeat replace reverse right round row_number rpad rtrim sign sin sqrt stddev stddev_pop
    stddev_samp substr substring sum tan trim upper var_pop var_samp variance ascii md5 trunc truncate extract overlay initcap
    """.split()
)

POSTGRESQL = frozenset(
    """
    abbrev acosd acosh age array_agg array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position
    array_positions array_prepend array_remove array_replace array_sample array_shuffle array_to_json array_to_string array_to_tsvector
    array_upper asind asinh atand atanh bit_count bit_length bool_and bool_or broadcast btrim bound_box box cardinality cbrt center chr
    circle clock_timestamp col_description convert convert_from convert_to corr cosd cosh covar_pop covar_samp current_catalog
    current_database current_role current_schema current_schemas current_user date_bin date_part date_trunc decode diagonal diameter div
    encode every factorial family format format_type gcd gen_random_uuid generate_series generate_subscripts get_bit get_byte
    get_current_ts_config has_any_column_privilege has_column_privilege has_database_privilege has_schema_privilege has_table_privilege
    height host hostmask inet_merge inet_same_family isclosed isempty isfinite isopen json_agg json_array json_array_elements
    json_array_elements_text json_array_length json_build_array json_build_object json_each json_each_text json_exists json_extract_path
    json_extract_path_text json_object json_object_agg json_object_keys json_populate_record json_populate_recordset json_query json_scalar
    json_serialize json_strip_nulls json_table json_to_record json_to_recordset json_typeof json_value jsonb_agg jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_exists
    jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists
    jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_pretty jsonb_set
    jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours
    justify_interval lcm line lower_inc lower_inf lseg make_date make_interval make_time make_timestamp make_timestamptz masklen mode
    multirange netmask network normalize npoints num_nonnulls num_nulls numnode obj_description parse_ident path percentile_cont
    percentile_disc pg_column_size pg_database_size pg_encoding_to_char pg_get_constraintdef pg_get_expr pg_get_function_arguments
    pg_get_functiondef pg_get_indexdef pg_get_keywords pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence pg_get_triggerdef
    pg_get_userbyid pg_get_viewdef pg_has_role pg_indexes_size pg_is_in_recovery pg_my_temp_schema pg_opclass_is_visible
    pg_postmaster_start_time pg_relation_size pg_size_pretty pg_sleep pg_table_is_visible pg_table_size pg_tablespace_location
    pg_total_relation_size pg_type_is_visible pg_typeof phraseto_tsquery plainto_tsquery point polygon popen quote_ident quote_literal
    quote_nullable radius range_agg range_intersect_agg range_merge regexp_count regexp_instr regexp_like regexp_match regexp_matches
    regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope row_to_json scale session_user set_bit set_byte set_masklen setweight sha224 sha256 sha384 sha512 shobj_description
    similarity sind sinh slope split_part starts_with statement_timestamp string_agg string_to_array string_to_table strip
    strict_word_similarity strpos tand tanh timeofday timezone to_ascii to_char to_date to_hex to_json to_jsonb to_number to_regclass
    to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale ts_delete ts_filter ts_headline
    ts_lexize ts_rank ts_rank_cd ts_rewrite tsquery_phrase tsvector_agg tsvector_to_array unaccent unistr unnest upper_inc upper_inf
    uuid_generate_v4 uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 version websearch_to_tsquery width width_bucket
    word_similarity xmlagg xmlconcat xmlelement xmlforest xmlroot any_value int4range int8range numrange tsrange tstzrange daterange
    """.split()
)

MYSQL = frozenset(
    """
    adddate addtime aes_decrypt aes_encrypt any_value bin bin_to_uuid bit_count bit_length char coercibility collation compress connection_id
    conv convert convert_tz crc32 curdate current_user curtime database date date_add date_format date_sub datediff day dayname dayofmonth
    dayofweek dayofyear elt export_set field find_in_set format format_bytes from_base64 from_days from_unixtime get_format group_concat hex
    hour if ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa instr interval is_ipv4 is_ipv6 is_uuid isnull json_array json_array_append
    json_array_insert json_arrayagg json_compact json_contains json_contains_path json_depth json_detailed json_equals json_exists
    json_extract json_insert json_keys json_length json_loose json_merge_patch json_merge_preserve json_normalize json_object
    json_objectagg json_overlaps json_pretty json_query json_quote json_remove json_replace json_schema_valid json_search json_set
    json_storage_size json_table json_type json_unquote json_valid json_value last_day lcase locate make_set makedate maketime microsecond
    mid minute month monthname oct ord period_add period_diff quarter quote regexp_instr regexp_like regexp_replace regexp_substr
    sec_to_time second session_user sha sha1 sha2 sleep soundex space st_area st_asgeojson st_astext st_contains st_distance
    st_distance_sphere st_geomfromtext st_intersects st_within st_x st_y std strcmp str_to_date subdate substring_index subtime sysdate
    system_user time time_format time_to_sec timediff timestamp timestampadd timestampdiff to_base64 to_char to_days to_seconds ucase
    uncompress unhex unix_timestamp user utc_date utc_time utc_timestamp uuid uuid_short uuid_to_bin value version week weekday weekofyear
    weight_string year yearweek median percentile_cont percentile_disc natural_sort_key
    """.split()
)

SQLITE = frozenset(
    """
    bm25 char date datetime format glob group_concat hex highlight ifnull iif if instr json json_array json_array_length json_each
    json_error_position json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_tree json_type json_valid jsonb jsonb_array jsonb_extract jsonb_group_array jsonb_group_object
    jsonb_object jsonb_set julianday like likelihood likely match printf quote randomblob sha1 sha3 snippet soundex sqlite_version
    string_agg strftime string time timediff total typeof unhex unicode unixepoch unlikely zeroblob sinh cosh tanh asinh acosh atanh median
    pragma_table_info pragma_table_xinfo pragma_index_list pragma_index_info pragma_foreign_key_list pragma_table_list generate_series
    octet_length acos regexp
    """.split()
)

FUNCTIONS = {
    "postgresql": SYNTAX | COMMON | POSTGRESQL,
    "mysql": SYNTAX | COMMON | MYSQL,
    "mariadb": SYNTAX | COMMON | MYSQL,
    "sqlite": SYNTAX | COMMON | SQLITE,
}


@lru_cache(CACHE_SIZE)
def is_plain_read(sql: str, dialect: str) -> bool:
    """Return True only if running ``sql`` in autocommit, on any connection, means the same as running it in a transaction."""
    known = FUNCTIONS.get(dialect)
    tokens = None if known is None else _tokens(sql)
    if known is None or tokens is None:
        return False
    while tokens and tokens[-1] == ("punctuation", ";"):
        tokens.pop()
    start = _first_word(tokens)
    if start not in STARTS:
        return False
    if start == "PRAGMA":
        return dialect == "sqlite" and _reads_pragma(tokens)
    if start in ("SHOW", "DESCRIBE", "DESC"):
        return dialect != "sqlite" and not any(text in (";", "INTO") for _, text in tokens)
    return not _locks(tokens) and all(_harmless(tokens, place, known, dialect) for place in range(len(tokens)))


@lru_cache(CACHE_SIZE)
def is_write(sql: str, dialect: str) -> bool:
    """Return True if ``sql`` certainly changes data or schema: by its first word, or in a common table expression."""
    tokens = _tokens(sql)
    if not tokens:
        return False
    start = _first_word(tokens)
    if start in WRITES:
        return True
    return start == "WITH" and any(kind == "word" and text in ("INSERT", "UPDATE", "DELETE", "MERGE") for kind, text in tokens) and not (
        _locks(tokens)
    )


@lru_cache(CACHE_SIZE)
def is_locking_read(sql: str, dialect: str) -> bool:
    """Return True for SELECT ... FOR UPDATE and its relatives."""
    tokens = _tokens(sql)
    return bool(tokens) and _first_word(tokens) in ("SELECT", "WITH") and _locks(tokens)


def _tokens(sql: str) -> list[tuple[str, str]] | None:
    """Return the tokens that matter, words in upper case; None where the text holds something this scanner does not know."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in TOKEN.finditer(sql):
        if match.start() != end:
            return None
        end = match.end()
        kind = match.lastgroup or ""
        if kind not in ("space", "comment"):
            found.append((kind, match.group().upper() if kind == "word" else match.group()))
    return found if end == len(sql) else None


def _first_word(tokens: list[tuple[str, str]]) -> str:
    for kind, text in tokens:
        if kind == "word":
            return text
        if text != "(":
            return ""
    return ""


def _locks(tokens: list[tuple[str, str]]) -> bool:
    words = _pairs(tokens)
    return any(
        (first == "FOR" and second in ("UPDATE", "SHARE", "NO", "KEY")) or (first == "LOCK" and second == "IN") for first, second in words
    )


def _pairs(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return zip((text for _, text in tokens), (text for _, text in tokens[1:]), strict=False)


def _harmless(tokens: list[tuple[str, str]], place: int, known: frozenset[str], dialect: str) -> bool:
    kind, text = tokens[place]
    if text == ";" or (kind == "operator" and text == "@" and dialect in ("mysql", "mariadb")):
        return False  # a second statement, or a user variable, which belongs to one connection
    if kind == "operator" and text == ":":
        return tokens[place + 1 : place + 2] != [("operator", "=")]
    if kind not in ("word", "quoted"):
        return True
    if kind == "word" and text in FORBIDDEN and not _is_column(tokens, place):
        return False
    if tokens[place + 1 : place + 2] != [("punctuation", "(")]:
        return not (kind == "word" and text in ("NEXTVAL", "NEXT") and _is_sequence(tokens, place))
    return _may_precede_parenthesis(tokens, place, known)


def _is_column(tokens: list[tuple[str, str]], place: int) -> bool:
    return place > 0 and tokens[place - 1] == ("punctuation", ".")


def _is_sequence(tokens: list[tuple[str, str]], place: int) -> bool:
    """NEXT VALUE FOR sequence (MariaDB), sequence.nextval."""
    following = [text for _, text in tokens[place + 1 : place + 2]]
    return following == ["VALUE"] or _is_column(tokens, place)


def _may_precede_parenthesis(tokens: list[tuple[str, str]], place: int, known: frozenset[str]) -> bool:
    kind, text = tokens[place]
    before = tokens[place - 1] if place else ("", "")
    if before == ("punctuation", "."):
        return kind == "word" and tokens[place - 2] == ("word", "PG_CATALOG") and text.lower() in known
    if _names_columns(tokens, place, before):
        return True
    return kind == "word" and text.lower() in known


def _names_columns(tokens: list[tuple[str, str]], place: int, before: tuple[str, str]) -> bool:
    """A column list, not a call: ``WITH name (a, b) AS (``, ``... , name (a) AS (``, ``AS alias (a, b)``."""
    if before in (("word", "AS"), ("word", "RECURSIVE")):
        return True
    if before not in (("word", "WITH"), ("punctuation", ",")):
        return False
    closing = _closing(tokens, place + 1)
    return [text for _, text in tokens[closing + 1 : closing + 2]] == ["AS"] and [
        text for _, text in tokens[closing + 2 : closing + 3]
    ] in (["("], ["MATERIALIZED"], ["NOT"])


def _closing(tokens: list[tuple[str, str]], opening: int) -> int:
    depth = 0
    for place in range(opening, len(tokens)):
        text = tokens[place][1] if tokens[place][0] == "punctuation" else ""
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return place
    return len(tokens)


def _reads_pragma(tokens: list[tuple[str, str]]) -> bool:
    rest = [text for _, text in tokens[1:]]
    if len(rest) > 2 and rest[1] == ".":
        rest = rest[2:]
    name = rest[0].lower() if rest else ""
    if name not in READING_PRAGMAS:
        return False
    return len(rest) == 1 or (name in PRAGMAS_WITH_ARGUMENT and rest[1] == "(" and rest[-1] == ")" and len(rest) == 4)
