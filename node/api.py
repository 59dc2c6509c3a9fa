"""The page of names for packages that add to the node (docs/extensions.md).

A package imports from here alone: what stands elsewhere may move with any version, a name of this page only with a line
in CHANGELOG.md. A module is loaded when one of its names is used, so that the module of an `Extension` stays cheap.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # isort: off
    # What an extension declares
    from node.hookspecs import Action as Action
    from node.hookspecs import Command as Command
    from node.hookspecs import Extension as Extension
    from node.hookspecs import Kind as Kind
    from node.hookspecs import MenuEntry as MenuEntry
    from node.hookspecs import ObjectKind as ObjectKind
    from node.hookspecs import Router as Router
    from node.hookspecs import Service as Service
    from node.hookspecs import Statement as Statement
    from node.hookspecs import Table as Table
    from node.registry import lacking as lacking
    from node.version import __version__ as __version__

    # What runs in a node that receives
    from node.association.added import Find as Find
    from node.association.added import FoundAnswers as FoundAnswers
    from node.association.added import Listening as Listening
    from node.association.added import OpenedRoot as OpenedRoot
    from node.association.added import Operate as Operate
    from node.association.added import Parts as Parts
    from node.association.added import Running as Running
    from node.index.work_loop import IndexFollower as IndexFollower
    from node.index.work_loop import Interrupted as Interrupted
    from node.receive.dicom_files import count_files as count_files
    from node.receive.import_files import ImportReport as ImportReport
    from node.receive.import_files import import_instances as import_instances
    from node.receive.ingest import Ingest as Ingest
    from node.runtime.background import BackgroundService as BackgroundService
    from node.runtime.background import seconds_of_retry_after as seconds_of_retry_after

    # Sections of the configuration
    from node.dicom.status import StatementTable as StatementTable
    from node.dicom.status import parameters as parameters
    from node.settings.core import DestinationSettings as DestinationSettings
    from node.settings.core import HookEvent as HookEvent
    from node.settings.core import HookSettings as HookSettings
    from node.settings.core import Layout as Layout
    from node.settings.core import RESULT_EVENTS as RESULT_EVENTS
    from node.settings.core import Route as Route
    from node.settings.core import Web as Web
    from node.settings.model import Settings as Settings
    from node.settings.section import AETitle as AETitle
    from node.settings.section import Host as Host
    from node.settings.section import Seconds as Seconds
    from node.settings.section import SettingsSection as SettingsSection

    # Commands
    from node.cli.exchange.hook_tests import shipped_with_pydicom as shipped_with_pydicom
    from node.cli.options import ChangedRoot as ChangedRoot
    from node.cli.options import Commands as Commands
    from node.cli.options import Configured as Configured
    from node.cli.options import Json as Json
    from node.cli.options import Root as Root
    from node.cli.options import SeriesUids as SeriesUids
    from node.cli.options import StudyUids as StudyUids
    from node.cli.options import studies_or_series as studies_or_series
    from node.cli.output import Answer as Answer
    from node.cli.output import Columns as Columns
    from node.cli.output import Listing as Listing
    from node.cli.output import listing as listing
    from node.cli.output import print_fields as print_fields
    from node.cli.output import print_table as print_table
    from node.cli.output import printable as printable
    from node.cli.output import progress_bar as progress_bar
    from node.cli.run.serve import Sitting as Sitting
    from node.cli.run.serve import browse as browse
    from node.cli.run.serve import remove_left as remove_left
    from node.cli.run.serve import sitting as sitting
    from node.cli.run.serve import stop_at_end as stop_at_end
    from node.cli.run.serve import temporary_root as temporary_root

    # REST and pages
    from node.web.access import ADMINS as ADMINS
    from node.web.access import ANYBODY as ANYBODY
    from node.web.access import Call as Call
    from node.web.access import CurrentCall as CurrentCall
    from node.web.access import MEMBERS as MEMBERS
    from node.web.access import READERS as READERS
    from node.web.access import WRITERS as WRITERS
    from node.web.access import WRITING_MEMBERS as WRITING_MEMBERS
    from node.web.access import allow as allow
    from node.web.api.models import Decision as Decision
    from node.web.api.models import Moment as Moment
    from node.web.api.models import PatientResource as PatientResource
    from node.web.api.models import Resource as Resource
    from node.web.api.models import RowId as RowId
    from node.web.api.resources import StudyOrSeries as StudyOrSeries
    from node.web.api.resources import StudyUid as StudyUid
    from node.web.api.routing import Change as Change
    from node.web.api.routing import OF_CHANGES as OF_CHANGES
    from node.web.api.routing import api_router as api_router
    from node.web.api.routing import only_row as only_row
    from node.web.api.routing import problems as problems
    from node.web.api.routing import single as single
    from node.web.api.routing import tagged as tagged
    from node.web.audit_trail import of_study as of_study
    from node.web.errors import Forbidden as Forbidden
    from node.web.errors import ProviderUnavailable as ProviderUnavailable
    from node.web.errors import ResourceNotFound as ResourceNotFound
    from node.web.errors import SignInFailed as SignInFailed
    from node.web.pages.rendering import series_url as series_url
    from node.web.pages.rendering import study_url as study_url
    from node.web.pages.selected import SERIES as SERIES
    from node.web.pages.selected import STUDY as STUDY
    from node.web.pages.selected import Selected as Selected
    from node.web.pages.selected import Wanted as Wanted
    from node.web.services import Node as Node
    from node.web.services import Services as Services

    # Accounts that somebody else keeps
    from node.index.rows.scope import group_members as group_members
    from node.index.rules.people.accounts import Role as Role
    from node.web.credentials import FederatedIdentity as FederatedIdentity
    from node.web.credentials import SIGN_IN_SECONDS as SIGN_IN_SECONDS

    # Destinations of routes
    from node.association.client.addresses import Address as Address
    from node.association.client.send import Outgoing as Outgoing
    from node.association.client.send import send_files as send_files
    from node.dicom.uids import resource_path as resource_path
    from node.index.rules.work.routes import DueInstance as DueInstance
    from node.index.rules.work.routes import OwedInstance as OwedInstance
    from node.routing.destination import Confirmation as Confirmation
    from node.routing.destination import Delivered as Delivered
    from node.routing.destination import NotConfirmable as NotConfirmable
    from node.routing.destination import NotTaken as NotTaken
    from node.routing.destination import Prepared as Prepared
    from node.routing.destination import Unreachable as Unreachable
    from node.routing.destination import WrittenDestination as WrittenDestination
    from node.routing.held import DestinationKind as DestinationKind
    from node.routing.held import HeldWorker as HeldWorker
    from node.routing.held import OpenReceiver as OpenReceiver
    from node.routing.held import RouteParts as RouteParts

    # Receivers of messages
    from node.notify.channel import Channel as Channel
    from node.notify.channel import DeliveredMessage as DeliveredMessage
    from node.notify.channel import HOOK_VARIABLES as HOOK_VARIABLES
    from node.notify.channel import NotDelivered as NotDelivered
    from node.notify.channel import OpenChannel as OpenChannel
    from node.notify.message import HookMessage as HookMessage

    # Other machines
    from node.runtime.network import OutOfReach as OutOfReach
    from node.runtime.network import Reach as Reach
    from node.runtime.network import is_loopback as is_loopback
    from node.runtime.network import plain_address as plain_address
    from node.runtime.tls import client_context as client_context
    from node.settings.tables import reach_of as reach_of

    # Child processes
    from node.children.child import Child as Child
    from node.children.child import ChildDied as ChildDied
    from node.children.messages import ChildCancelled as ChildCancelled
    from node.children.messages import ChildLate as ChildLate
    from node.children.serving import ChildPipes as ChildPipes

    # Attributes of a data set
    from node.dicom.attributes import is_identifier as is_identifier
    from node.dicom.values import items as items
    from node.dicom.values import number as number
    from node.dicom.values import numbers as numbers
    from node.dicom.values import text as text
    from node.dicom.values import value as value
    from node.dicom.values import whole as whole
    from node.volume.describe.sidecar_fields import describe as describe
    from node.volume.describe.sidecar_fields import identifying_words as identifying_words
    from node.volume.describe.sidecar_fields import repeats as repeats

    # Instances without pixels
    from node.completeness import Evidence as Evidence
    from node.conversion.datasets import FileSource as FileSource
    from node.conversion.datasets import Objects as Objects
    from node.conversion.datasets import Output as Output
    from node.conversion.datasets import SeriesFiles as SeriesFiles
    from node.conversion.datasets import WrittenObjects as WrittenObjects
    from node.conversion.job import ReferencedSeries as ReferencedSeries
    from node.conversion.job import converted_file as converted_file
    from node.writers.sidecar import write_document as write_document

    # Volumes
    from node.volume.assemble import DAMAGE as DAMAGE
    from node.volume.assemble import assemble as assemble
    from node.volume.assemble import damage_detail as damage_detail
    from node.volume.derived import collapse as collapse
    from node.volume.derived import masked as masked
    from node.volume.derived import threshold as threshold
    from node.volume.model import Array as Array
    from node.volume.model import Assembly as Assembly
    from node.volume.model import Float as Float
    from node.volume.model import Geometry as Geometry
    from node.volume.model import Source as Source
    from node.volume.model import Volume as Volume
    from node.volume.model import VolumeKind as VolumeKind
    from node.volume.planes import PlaneName as PlaneName
    from node.volume.read.frames import frames_of as frames_of
    from node.volume.reasons import Exclusion as Exclusion
    from node.volume.reasons import Reason as Reason
    from node.volume.reasons import Refusal as Refusal
    from node.volume.reasons import VolumeWarning as VolumeWarning
    from node.volume.reasons import WarningKind as WarningKind
    from node.writers.from_arrays import read_rectangles as read_rectangles
    from node.writers.from_arrays import refined as refined
    from node.writers.from_arrays import write_labelled_npz as write_labelled_npz
    from node.writers.from_arrays import write_montage as write_montage
    from node.writers.from_arrays import write_rectangles as write_rectangles
    from node.writers.from_arrays import write_slices as write_slices
    from node.writers.itk import write_voxels as write_voxels
    from node.writers.reading import read_sidecar as read_sidecar
    from node.writers.reading import read_voxels as read_voxels

    # Files by name
    from node.archive.base import VOLUMES as VOLUMES
    from node.archive.space import reason_of as reason_of
    from node.conversion.naming import NameTemplate as NameTemplate
    from node.conversion.naming import TakenNames as TakenNames
    from node.conversion.naming import ending_of as ending_of
    from node.conversion.naming import is_file_of as is_file_of
    from node.conversion.naming import node_template as node_template
    from node.conversion.naming import numbered as numbered
    from node.conversion.naming import renamed_header as renamed_header
    from node.files.durable import make_folder as make_folder
    from node.files.durable import sync_folder as sync_folder

    # The index, and rows of an extension in it
    from node.index.database import Index as Index
    from node.index.look.views import ReadIndex as ReadIndex
    from node.index.reading import reading as reading
    from node.index.rows.converted import SeriesKey as SeriesKey
    from node.index.rows.extension_tables import IndexTables as IndexTables
    from node.index.rows.extension_tables import SEEN_WITH_STUDY_OR_SERIES as SEEN_WITH_STUDY_OR_SERIES
    from node.index.rows.models.levels import ImageRow as ImageRow
    from node.index.rows.models.levels import NAMES as NAMES
    from node.index.rows.models.levels import PatientRow as PatientRow
    from node.index.rows.models.levels import SeriesRow as SeriesRow
    from node.index.rows.models.levels import StudyRow as StudyRow
    from node.index.rows.models.levels import Utc as Utc
    from node.index.rows.models.work import LabelRow as LabelRow
    from node.index.rows.repositories import IndexRepository as IndexRepository
    from node.index.rows.repositories import Terms as Terms
    from node.index.rows.repositories import on_reader as on_reader
    from node.index.rows.repositories import on_writer as on_writer
    from node.index.rows.sql import insert as insert
    from node.index.rows.view_rows import Row as Row
    from node.index.rows.view_rows import ViewRows as ViewRows
    from node.index.rules.custody.trash import in_trash as in_trash
    from node.index.rules.people.person_plans import Correction as Correction
    from node.index.rules.people.person_plans import MAX_ISSUER_CHARACTERS as MAX_ISSUER_CHARACTERS
    from node.index.rules.people.person_plans import Moved as Moved
    from node.index.rules.people.persons import PersonRepository as PersonRepository
    from node.index.rules.work.ledger import NoSuchWork as NoSuchWork

    # Errors and the audit log
    from node.audit.audit_log import Audit as Audit
    from node.audit.audit_log import AuditAction as AuditAction
    from node.audit.audit_log import AuditCopy as AuditCopy
    from node.audit.audit_log import AuditEvent as AuditEvent
    from node.audit.audit_log import AuditMessage as AuditMessage
    from node.errors import ConversionRefused as ConversionRefused
    from node.errors import NotUnderstood as NotUnderstood
    from node.errors import OutOfResources as OutOfResources
    from node.errors import UsageError as UsageError
    from node.errors import VoxelnodeError as VoxelnodeError
    from node.errors import counted as counted
    from node.errors import sized as sized
    from node.errors import type_and_location as type_and_location
    # isort: on

_MODULES = {
    name: module
    for module, name in re.findall(r"^    from (\S+) import (\w+) as \2$", Path(__file__).read_text(), re.M)
}
"""The modules of the names of this page, as it imports them above for a checker of types."""


if not TYPE_CHECKING:  # a checker of types would take any name for one of this page
    __all__ = list(_MODULES)

    def __getattr__(name: str) -> Any:
        """Return a name of this page (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"voxelnode.api has no name {name!r}: docs/extensions.md lists what packages may use")
        return getattr(import_module(_MODULES[name]), name)
