"""The views: the public interface of the index, documented column by column in docs/data.md.

A view has no rows of its own, so no migration changes one: after the migrations of an index, `make_views` makes all of
them again. This module always has the whole text of each.

Paths in the tables are relative to the root, and `node.index.rows.view_rows.Words` knows what makes them absolute. A
view is the SQL that both engines share; where they differ, it has the words of its engine.
"""

from itertools import chain

from sqlalchemy import Connection, Dialect

from node.dicom.keys import KEYS, Level
from node.index.rows.extension_tables import extension_tables
from node.index.rows.view_rows import (
    EACH,
    TEXT,
    UNINDEXED,
    Words,
    attributes_of,
    certainty_of,
    grid_of,
    problem_of,
    years_of,
)

_IS_ACKNOWLEDGED = f"se.acknowledged_problem = {problem_of('se')}"

INSTANCES_BEHIND = (
    "CASE WHEN h.wants_instances THEN (SELECT count(*) FROM owed_images o WHERE o.subscriber_id = h.id) END"
)
"""Empty for a hook or a route that wants no messages of single instances."""


_MESSAGE_STATE = """
    CASE coalesce(w.outcome, w.state) WHEN 'succeeded' THEN 'delivered' WHEN 'failed' THEN 'given-up'
         WHEN 'cancelled' THEN 'dropped' ELSE coalesce(w.outcome, w.state) END"""

_OF_IT = "w.kind = h.kind AND w.name = h.name AND w.destination = h.destination"
_COUNTS = f"""(SELECT count(*) FROM work w WHERE {_OF_IT} AND w.outcome IS NULL) AS waiting,
                   (SELECT count(*) FROM work w WHERE {_OF_IT} AND w.outcome = 'failed') AS given_up,
                   (SELECT min(coalesce(w.due_at, w.happened_at)) FROM work w
                    WHERE {_OF_IT} AND w.outcome IS NULL) AS due_at"""
"""Messages of a hook or a destination of a route."""


def _of_level(table: str, level: Level) -> str:
    """Return the columns of the keys of a level, from its table."""
    columns = [str(key.column) for key in KEYS.values() if key.level == level and key.column and key.vr != "SQ"]
    age = f"{years_of('st.patient_age')} AS patient_age"
    return ", ".join(age if column == "patient_age" else f'{table}."{column}"' for column in columns)


def views(dialect: Dialect) -> dict[str, str]:
    """Return the query of each view, by its name."""
    say = Words(dialect.name)
    of_extensions = (own.views for own in extension_tables().values())
    return dict(chain.from_iterable(one.items() for one in (_of_core(say), *of_extensions)))


def _of_core(say: Words) -> dict[str, str]:
    return {
        "v_patients": f"""
            SELECT p.id, {_of_level("p", Level.PATIENT)},
                   (SELECT count(*) FROM studies st WHERE st.patient_id = p.id) AS studies, p.merged_into
            FROM patients p""",
        "v_studies": f"""
            SELECT {_of_level("st", Level.STUDY)}, st.patient_id AS patient, {_of_level("p", Level.PATIENT)},
                   (SELECT count(*) FROM series se WHERE se.study_id = st.id) AS series,
                   (SELECT count(*) FROM images i JOIN series se ON se.id = i.series_id WHERE se.study_id = st.id)
                       AS instances,
                   (SELECT max(se.last_received_at) FROM series se WHERE se.study_id = st.id) AS last_received_at,
                   CASE WHEN st.closed_at IS NULL AND NOT EXISTS (
                       SELECT 1 FROM series se WHERE se.study_id = st.id AND se.state IN ('receiving', 'converting')
                   ) THEN st.quiet_at END AS quiet_at,
                   n.patient_id AS stored_patient_id, n.patient_name AS stored_patient_name,
                   coalesce(st.decided_by, n.decided_by) AS decided_by, st.identified_at AS decided_at
            FROM studies st JOIN patients p ON p.id = st.patient_id
            LEFT JOIN patients n ON n.id = st.named_patient_id""",
        "v_series": f"""
            SELECT {_of_level("se", Level.SERIES)}, st.study_instance_uid,
                   se.state, se.verdict, {certainty_of("se")} AS certainty, se.verdict_rule, se.verdict_reason,
                   se.expected_instances, se.expected_source, se.missing_instances, se.missing_detail,
                   se.missing_at_sender, (SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances,
                   se.revision, se.open_since, se.last_received_at, se.due_at, se.attempts, se.error, se.why,
                   CASE WHEN {_IS_ACKNOWLEDGED} THEN se.acknowledged_reason END AS acknowledged_reason,
                   CASE WHEN {_IS_ACKNOWLEDGED} THEN se.acknowledged_by END AS acknowledged_by,
                   CASE WHEN {_IS_ACKNOWLEDGED} THEN se.acknowledged_at END AS acknowledged_at
            FROM series se JOIN studies st ON st.id = se.study_id""",
        "v_images": f"""
            SELECT {_of_level("i", Level.IMAGE)}, se.series_instance_uid, st.study_instance_uid,
                   i.bytes, i.sha256, i.data_set_offset, {say.root} || i."key" AS path,
                   i.file_missing, i.place, i.spool_host, i.source, i.calling_ae_title, i.called_ae_title, i.peer,
                   i.received_at, {attributes_of(say)}
            FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id
            LEFT JOIN image_documents d ON d.image_id = i.id LEFT JOIN series_documents b ON b.series_id = se.id""",
        "v_volumes": f"""
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, c.superseded, v.stack, v.suffix, v.kind,
                   v.format, {say.root} || v.path AS path,
                   v.shape, v.spacing_mm, v.dtype, v.geometry, v.orientation, v.affine_lps, v.slice_thickness_mm,
                   v.repetition_time_ms, v.echo_time_ms, v.inversion_time_ms, v.flip_angle_degrees,
                   v.magnetic_field_strength_t, v.sequence, v.weighting, v.contrast_agent, v.convolution_kernel,
                   v.instances, v.warnings, v.bytes, v.sha256,
                   (SELECT f.place FROM revision_files f WHERE f."key" = v.path) AS place,
                   c.converter, c.created_at, c.files_removed_at
            FROM volumes v JOIN conversions c ON c.id = v.conversion_id
            JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id""",
        # Of each current volume one file, NIfTI if there is one. SQLite would look up what does not help.
        "v_catalog": f"""
            SELECT st.study_instance_uid, se.series_instance_uid, c.revision, v.stack, v.suffix,
                   st.patient_id AS patient, p.patient_id, p.patient_sex,
                   {years_of("st.patient_age")} AS patient_age,
                   st.study_date, st.study_description, st.accession_number,
                   {say(UNINDEXED, "se.modality")} AS modality, se.series_number, se.series_description,
                   se.protocol_name, se.body_part_examined AS body_part, se.manufacturer, se.manufacturer_model_name,
                   v.magnetic_field_strength_t, v.weighting, v.sequence, v.repetition_time_ms, v.echo_time_ms,
                   v.inversion_time_ms, v.flip_angle_degrees, v.contrast_agent, v.convolution_kernel, v.orientation,
                   v.geometry,
                   {", ".join(f"{column} AS {name}" for name, column in grid_of("v", say).items())},
                   v.slice_thickness_mm, v.affine_lps, v.dtype, v.warnings,
                   se.verdict, se.state, v.instances, v.format, {say.root} || v.path AS path, v.bytes, v.sha256,
                   c.created_at
            FROM studies st JOIN patients p ON p.id = st.patient_id JOIN series se ON se.study_id = st.id
            JOIN conversions c ON c.series_id = {say(UNINDEXED, "se.id")}
            JOIN volumes v ON v.conversion_id = {say(UNINDEXED, "c.id")}
            WHERE v.kind = 'volume' AND NOT c.superseded AND c.files_removed_at IS NULL
              AND v.id = (
                  SELECT o.id FROM volumes o
                  WHERE o.conversion_id = v.conversion_id AND o.stack = v.stack AND o.suffix = v.suffix
                    AND o.kind = 'volume'
                  ORDER BY o.format <> 'nifti', o.id LIMIT 1
              )""",
        "v_failures": """
            SELECT se.series_instance_uid, st.study_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at
            FROM failures f JOIN series se ON se.id = f.series_id JOIN studies st ON st.id = se.study_id""",
        "v_sources": """
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, s.stack, s.sop_instance_uid, s.sha256,
                   s.frames
            FROM volume_sources s JOIN conversions c ON c.id = s.conversion_id JOIN series se ON se.id = c.series_id
            JOIN studies st ON st.id = se.study_id""",
        "v_exclusions": """
            SELECT se.series_instance_uid, st.study_instance_uid, c.revision, x.sop_instance_uid, x.frames, x.reason,
                   x.detail
            FROM exclusions x JOIN conversions c ON c.id = x.conversion_id JOIN series se ON se.id = c.series_id
            JOIN studies st ON st.id = se.study_id""",
        "v_conflicts": f"""
            SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, detail,
                   {say.root} || conflicts."key" AS path, sha256, damage, calling_ae_title, found_at, decision,
                   decided_at, decided_by
            FROM conflicts""",
        "v_events": """
            SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail, happened_at,
                   why
            FROM events""",
        "v_rejections": """
            SELECT what, rule, peer, calling_ae_title, called_ae_title, offered, reason, remedy, "count", first_at,
                   last_at
            FROM rejections""",
        "v_lost_instances": """
            SELECT sop_instance_uid, study_instance_uid, series_instance_uid, sha256, source, calling_ae_title, peer,
                   received_at, noticed_at
            FROM lost_instances""",
        "v_labels": """
            SELECT l.study_instance_uid, nullif(l.series_instance_uid, '') AS series_instance_uid, l.label, l.given_by,
                   l.given_at
            FROM labels l JOIN studies st ON st.study_instance_uid = l.study_instance_uid
            WHERE l.series_instance_uid = '' OR EXISTS (
                SELECT 1 FROM series se
                WHERE se.study_id = st.id AND se.series_instance_uid = l.series_instance_uid)""",
        "v_deletions": """
            SELECT level, uid, reason, ordered_at, finished_at,
                   CASE WHEN content IS NOT NULL THEN trash_until END AS trash_until, restored_at
            FROM tombstones""",
        "v_senders": f"""
            SELECT calling_ae_title, quiet_seconds, json_array_length(gaps) AS series,
                   (SELECT max(CAST(value AS FLOAT)) FROM {say(EACH, "gaps")}) AS longest_gap_seconds,
                   learnt_at
            FROM senders""",
        "v_commitments": f"""
            SELECT "key" AS transaction_uid, name AS calling_ae_title, {say(TEXT, "payload", "peer")} AS peer,
                   CAST({say(TEXT, "payload", "instances")} AS BIGINT) AS instances,
                   CASE WHEN outcome IS NULL THEN 'owed' WHEN outcome = 'succeeded' THEN 'reported' ELSE 'given-up' END
                       AS state,
                   attempts, CAST({say(TEXT, "payload", "failed")} AS BIGINT) AS failed, reason AS detail,
                   happened_at AS requested_at, due_at, ended_at
            FROM work WHERE kind = 'commitment'""",
        "v_hooks": f"""
            SELECT h.name AS hook, h.paused, {INSTANCES_BEHIND} AS instances_behind,
                   (SELECT count(*) FROM owed_events o WHERE o.subscriber_id = h.id) AS events_behind,
                   {_COUNTS},
                   h.delivered, h.delivered_at
            FROM subscribers h WHERE h.kind = 'hook'""",
        "v_deliveries": f"""
            SELECT w."key" AS message_id, w.name AS hook, w.event, w.study_instance_uid, w.series_instance_uid,
                   w.sop_instance_uid, w.revision, {say(TEXT, "w.payload", "detail")} AS detail, w.happened_at,
                   {_MESSAGE_STATE} AS state, w.attempts, w.due_at, w.reason,
                   {say(TEXT, "w.payload", "output")} AS output, w.tried_at AS last_at
            FROM work w WHERE w.kind = 'hook'""",
        "v_routes": f"""
            SELECT h.name AS route, h.destination, h.paused, h.trouble, h.trouble_since, h.retry_at,
                   {INSTANCES_BEHIND} AS instances_behind,
                   CASE WHEN NOT h.wants_instances THEN (
                       SELECT count(DISTINCT e.series_instance_uid) FROM owed_events o JOIN events e
                       ON e.id = o.event_id WHERE o.subscriber_id = h.id
                   ) END AS series_behind,
                   {_COUNTS},
                   (SELECT min(w.happened_at) FROM work w WHERE {_OF_IT} AND w.outcome IS NULL) AS waiting_since,
                   (SELECT count(*) FROM sent_instances s WHERE s.route = h.name AND s.destination = h.destination
                    AND s.state IN ('owed', 'asked')) AS unconfirmed,
                   (SELECT min(CASE s.state WHEN 'asked' THEN s.asked_at END) FROM sent_instances s
                    WHERE s.route = h.name AND s.destination = h.destination AND s.state IN ('owed', 'asked')
                   ) AS asked_at,
                   h.delivered, h.delivered_at
            FROM subscribers h WHERE h.kind = 'route'""",
        "v_route_messages": f"""
            SELECT w."key" AS message_id, w.name AS route, w.destination, w.event, w.study_instance_uid,
                   w.series_instance_uid, w.sop_instance_uid, w.revision, w.happened_at, {_MESSAGE_STATE} AS state,
                   w.attempts, w.due_at, w.reason, w.tried_at AS last_at
            FROM work w WHERE w.kind = 'route'""",
        "v_sent_instances": """
            SELECT s.route, s.destination, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid,
                   s.sop_instance_uid AS sent_sop_instance_uid, s.patient_id, s.sha256, s.state, s.sent_at, s.asked_at,
                   s.confirmed_at
            FROM sent_instances s JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id
            JOIN studies st ON st.id = se.study_id""",
    }


def make_views(connection: Connection) -> None:
    """Make every view, in the transaction of a migration that has dropped them."""
    for name, query in views(connection.dialect).items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def drop_views(connection: Connection) -> None:
    """Drop the views that are there, so that a migration can change what they read.

    Those of this version: a migration that removes a view for good drops that one itself.
    """
    for name in views(connection.dialect):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
