"""Which words of SQL are harmless where: functions without effects, and syntax that stands before a parenthesis.

A function is listed if it neither writes, locks nor sets anything, and depends on nothing that a connection remembers
from an earlier statement: no ``nextval``, ``current_setting`` or ``last_insert_id``. Also not listed is what runs SQL
that is handed to it as text (``query_to_xml``, ``ts_stat``, ``ts_rewrite``). Names are those that the server, or a
widespread extension, brings along (tests/core/test_plain_read_on_servers.py asks the servers).
"""

from __future__ import annotations


def _set(names: str) -> frozenset[str]:
    return frozenset(names.upper().split())


# -- Functions ---------------------------------------------------------------------------------------------------------

COMMON = _set(
    """
    abs acos asin atan atan2 avg cast ceil ceiling coalesce cos count cume_dist current_date current_time
    current_timestamp degrees dense_rank exp first_value floor lag last_value lead length like ln log log10 lower
    ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power radians rank replace round
    row_number rtrim sign sin sqrt substr substring sum tan trim upper
    """
)

POSTGRESQL = _set(
    """
    abbrev acldefault aclexplode acosd acosh age any_value area array_agg array_append array_cat array_dims array_fill
    array_length array_lower array_ndims array_position array_positions array_prepend array_remove array_replace
    array_sample array_shuffle array_to_json array_to_string array_to_tsvector array_upper ascii asind asinh atan2d
    atand atanh bit_and bit_count bit_length bit_or bit_xor bool bool_and bool_or bound_box box broadcast btrim
    cardinality casefold cbrt center char_length character_length chr cidr circle clock_timestamp col_description
    concat concat_ws convert convert_from convert_to corr cosd cosh cot cotd covar_pop covar_samp crc32 crc32c
    current_catalog current_database current_schema current_schemas date date_add date_bin date_part date_subtract
    date_trunc datemultirange daterange decode diagonal diameter div encode enum_first enum_last enum_range erf erfc
    every extract factorial family float4 float8 format format_type gamma gcd gen_random_uuid generate_series
    generate_subscripts get_bit get_byte get_current_ts_config greatest grouping has_any_column_privilege
    has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege has_function_privilege
    has_language_privilege has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege
    has_tablespace_privilege has_type_privilege hashtext hashtextextended height host hostmask inet_merge
    inet_same_family initcap int2 int4 int4multirange int4range int8 int8multirange int8range is_normalized isclosed
    isempty isfinite ishorizontal isopen isparallel isperp isvertical json json_agg json_array json_array_elements
    json_array_elements_text json_array_length json_arrayagg json_build_array json_build_object json_each
    json_each_text json_exists json_extract_path json_extract_path_text json_object json_object_agg
    json_object_agg_strict json_object_keys json_objectagg json_populate_record json_populate_recordset json_query
    json_scalar json_serialize json_strip_nulls json_table json_to_record json_to_recordset json_to_tsvector
    json_typeof json_value jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_exists jsonb_exists_all jsonb_exists_any
    jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys
    jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query
    jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz
    jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax
    jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours
    justify_interval lcm least left line localtime localtimestamp lower_inc lower_inf lpad lseg macaddr make_date
    make_interval make_time make_timestamp make_timestamptz masklen md5 min_scale mode money multirange mxid_age name
    netmask network normalize notlike now npoints num_nonnulls num_nulls numnode nummultirange numrange
    obj_description oid overlaps overlay parse_ident path pclose percentile_cont percentile_disc pg_char_to_encoding
    pg_collation_for pg_collation_is_visible pg_column_compression pg_column_is_updatable pg_column_size
    pg_conversion_is_visible pg_database_size pg_describe_object pg_encoding_max_length pg_encoding_to_char
    pg_function_is_visible pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef
    pg_get_indexdef pg_get_keywords pg_get_partition_constraintdef pg_get_partkeydef pg_get_replica_identity_index
    pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef pg_get_statisticsobjdef_columns
    pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role
    pg_identify_object pg_index_column_has_property pg_index_has_property pg_indexam_has_property pg_indexes_size
    pg_is_in_recovery pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table
    pg_partition_ancestors pg_partition_root pg_partition_tree pg_postmaster_start_time pg_relation_filenode
    pg_relation_is_updatable pg_relation_size pg_sequence_parameters pg_size_bytes pg_size_pretty pg_sleep
    pg_statistics_obj_is_visible pg_table_is_visible pg_table_size pg_tablespace_databases pg_tablespace_location
    pg_tablespace_size pg_timezone_abbrevs pg_timezone_names pg_total_relation_size pg_ts_config_is_visible
    pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof
    phraseto_tsquery plainto_tsquery point polygon popen position querytree quote_ident quote_literal quote_nullable
    radius random random_normal range_agg range_intersect_agg range_merge regexp_count regexp_instr regexp_like
    regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx
    regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat reverse right
    row_security_active row_to_json rpad scale set_bit set_byte set_masklen setweight sha224 sha256 sha384 sha512
    shobj_description sind sinh slope split_part starts_with statement_timestamp stddev stddev_pop stddev_samp
    string_agg string_to_array string_to_table strip strpos tand tanh text timeofday timestamptz timezone to_ascii
    to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_regclass to_regcollation to_regnamespace
    to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_timestamp to_tsquery to_tsvector
    transaction_timestamp translate treat trim_array trim_scale trunc ts_debug ts_delete ts_filter ts_headline
    ts_lexize ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange tsquery_phrase tsrange tstzmultirange tstzrange
    tsvector_to_array unicode_version unistr unnest upper_inc upper_inf uuid_extract_timestamp uuid_extract_version
    uuidv4 uuidv7 var_pop var_samp variance version websearch_to_tsquery width width_bucket xml xml_is_well_formed
    xml_is_well_formed_content xml_is_well_formed_document xmlagg xmlattributes xmlcomment xmlconcat xmlelement
    xmlexists xmlforest xmlparse xmlpi xmlroot xmlserialize xpath xpath_exists
    """
)

# unaccent, pg_trgm, uuid-ossp, pgcrypto, earthdistance and ltree; pgvector; PostGIS, as GeoAlchemy writes it by itself.
POSTGRESQL_EXTENSIONS = _set(
    """
    unaccent similarity strict_word_similarity word_similarity show_trgm uuid_generate_v1 uuid_generate_v1mc
    uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 crypt digest gen_salt hmac earth_box earth_distance ll_to_earth
    lca nlevel subltree subpath text2ltree
    binary_quantize cosine_distance hamming_distance inner_product jaccard_distance l1_distance l2_distance
    l2_normalize subvector vector_dims vector_norm
    st_area st_asbinary st_asewkb st_asewkt st_asgeojson st_asmvt st_asmvtgeom st_astext st_azimuth st_boundary
    st_buffer st_centroid st_closestpoint st_collect st_contains st_convexhull st_coveredby st_covers st_crosses
    st_difference st_disjoint st_distance st_distancesphere st_dwithin st_endpoint st_envelope st_equals st_extent
    st_geogfromtext st_geogfromwkb st_geohash st_geometryn st_geometrytype st_geomfromewkb st_geomfromewkt
    st_geomfromgeojson st_geomfromtext st_geomfromwkb st_intersection st_intersects st_isempty st_isvalid st_length
    st_lineinterpolatepoint st_makeenvelope st_makeline st_makepoint st_makevalid st_npoints st_numgeometries
    st_overlaps st_perimeter st_point st_pointfromtext st_pointn st_setsrid st_simplify st_snaptogrid st_srid
    st_startpoint st_tileenvelope st_touches st_transform st_union st_within st_x st_xmax st_xmin st_y st_ymax st_ymin
    st_z
    """
)

MYSQL = _set(
    """
    adddate addtime aes_decrypt aes_encrypt any_value ascii bin bin_to_uuid bit_and bit_count bit_length bit_or
    bit_xor char char_length character_length charset chr coercibility collation compress concat concat_ws conv
    convert convert_tz cot crc32 curdate current_role current_user curtime database date date_add date_format date_sub
    datediff day dayname dayofmonth dayofweek dayofyear decode default elt encode export_set extract extractvalue
    field find_in_set format format_bytes from_base64 from_days from_unixtime get_format greatest group_concat hex
    hour if ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa instr interval is_ipv4 is_ipv6 is_uuid isnull json_array
    json_array_append json_array_insert json_arrayagg json_compact json_contains json_contains_path json_depth
    json_detailed json_equals json_exists json_extract json_insert json_keys json_length json_loose json_merge_patch
    json_merge_preserve json_normalize json_object json_objectagg json_overlaps json_pretty json_query json_quote
    json_remove json_replace json_schema_valid json_search json_set json_storage_size json_table json_type
    json_unquote json_valid json_value last_day lcase least left localtime localtimestamp locate log2 lpad make_set
    makedate maketime md5 median microsecond mid minute month monthname natural_sort_key now nvl nvl2 oct ord
    percentile_cont percentile_disc period_add period_diff point position quarter quote rand regexp_instr regexp_like
    regexp_replace regexp_substr repeat reverse right rpad schema sec_to_time second session_user sha sha1 sha2 sleep
    soundex space st_area st_asgeojson st_astext st_buffer st_centroid st_contains st_difference st_distance
    st_distance_sphere st_envelope st_geomfromgeojson st_geomfromtext st_geomfromwkb st_intersection st_intersects
    st_isvalid st_length st_pointfromtext st_srid st_touches st_union st_within st_x st_y std stddev stddev_pop
    stddev_samp str_to_date strcmp subdate substring_index subtime sysdate system_user time time_format time_to_sec
    timediff timestamp timestampadd timestampdiff to_base64 to_char to_days to_seconds truncate ucase uncompress
    uncompressed_length unhex unix_timestamp user utc_date utc_time utc_timestamp uuid uuid_short uuid_to_bin var_pop
    var_samp variance version week weekday weekofyear weight_string year yearweek
    """
)

SQLITE = _set(
    """
    acosh asinh atanh bm25 char concat concat_ws cosh date datetime format glob group_concat hex highlight if ifnull
    iif instr json json_array json_array_length json_each json_error_position json_extract json_group_array
    json_group_object json_insert json_object json_patch json_pretty json_quote json_remove json_replace json_set
    json_tree json_type json_valid jsonb jsonb_array jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert
    jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set julianday likelihood likely log2 match matchinfo
    median offsets percentile percentile_cont percentile_disc pragma_collation_list pragma_compile_options
    pragma_database_list pragma_foreign_key_list pragma_function_list pragma_index_info pragma_index_list
    pragma_index_xinfo pragma_module_list pragma_table_info pragma_table_list pragma_table_xinfo printf quote random
    randomblob regexp sinh snippet soundex sqlite_compileoption_get sqlite_compileoption_used sqlite_source_id
    sqlite_version strftime string_agg tanh time timediff total trunc typeof unhex unicode unistr unistr_quote
    unixepoch unlikely zeroblob
    """
)

FUNCTIONS = {
    "postgresql": COMMON | POSTGRESQL | POSTGRESQL_EXTENSIONS,
    "mysql": COMMON | MYSQL,
    "mariadb": COMMON | MYSQL,
    "sqlite": COMMON | SQLITE,
}

# -- Syntax ------------------------------------------------------------------------------------------------------------

# Words that no function can have for a name unless it is quoted, and that may stand before a parenthesis.
RESERVED_EVERYWHERE = _set(
    """
    all and as between case distinct else except exists from group having in intersect limit not on or select then
    union using values when where
    """
)
RESERVED_ON_POSTGRESQL = _set(
    """
    any array bit char character dec decimal end fetch float for int integer interval lateral national nchar numeric
    offset only placing real row smallint some symmetric time timestamp to varchar variadic xmltable
    """
)
RESERVED_ON_MYSQL = _set(
    """
    binary bit decimal div double float for grouping index int integer join key match numeric over partition real
    regexp rlike row straight_join to varbinary varchar with xor
    """
)
RESERVED = {
    "postgresql": RESERVED_EVERYWHERE | RESERVED_ON_POSTGRESQL,
    "mysql": RESERVED_EVERYWHERE | RESERVED_ON_MYSQL,
    "mariadb": RESERVED_EVERYWHERE | RESERVED_ON_MYSQL,
    "sqlite": RESERVED_EVERYWHERE | {"ESCAPE", "JOIN", "TO"},
}

# Words that are syntax right after one of these words or pairs of words, and may name a function elsewhere.
SYNTAX_AFTER = {
    "ANY": frozenset({"=", "<", ">"}),
    "BERNOULLI": frozenset({"TABLESAMPLE"}),
    "BY": frozenset({"GROUP", "ORDER", "PARTITION"}),
    "CUBE": frozenset({"GROUP BY"}),
    "FIRST": frozenset({"FETCH"}),
    "JOIN": frozenset({"INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "NATURAL"}),
    "LATERAL": frozenset({"JOIN"}),
    "MATERIALIZED": frozenset({"AS", "AS NOT"}),
    "NEXT": frozenset({"FETCH"}),
    "OF": frozenset({"MEMBER"}),
    "ROLLUP": frozenset({"GROUP BY"}),
    "SETS": frozenset({"GROUPING"}),
    "SOME": frozenset({"=", "<", ">"}),
    "SYSTEM": frozenset({"TABLESAMPLE"}),
    "VARYING": frozenset({"BIT", "CHAR", "CHARACTER", "NCHAR"}),
    "ZONE": frozenset({"TIME"}),
}

# Words that stand between an operand and a parenthesis. No function call follows an operand.
INFIX = _set("against columns escape filter ilike join offset operator over repeatable")

# Words after which an expression may begin: what follows one of them does not follow an operand.
OPENING = _set(
    """
    all and any array as asymmetric between binary both by case collate columns content cross cube default distinct
    distinctrow document div else escape except exists fetch filter first for from full glob group groups having
    high_priority ilike in inner intersect interval is isnull join lateral leading left like limit match member mod
    natural next not notnull of offset on only operator or order outer over overlaps partition passing placing range
    regexp returning right rlike rollup row rows select separator sets similar some sql_big_result sql_buffer_result
    sql_cache sql_no_cache sql_small_result straight_join symmetric table then to trailing union using value values
    variadic verbose when where window with xor zone
    """
)
