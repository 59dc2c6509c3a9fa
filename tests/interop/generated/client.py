"""Use the client that openapi-python-client makes of the node's OpenAPI document; print what it answers as JSON."""

import json
import sys

from voxelnode_client import AuthenticatedClient
from voxelnode_client.api.instances import download_instance, list_instances
from voxelnode_client.api.problems import show_problem_type
from voxelnode_client.api.studies import delete_study, reconvert_study, show_study
from voxelnode_client.api.volumes import download_volume, list_volumes, show_volume
from voxelnode_client.models import Problem, ProblemTypeResource, StudyResource, VolumeResource
from voxelnode_client.types import File


def main(url: str, token: str, study_uid: str) -> None:
    """Read and change a study."""
    client = AuthenticatedClient(base_url=url, token=token)
    study = show_study.sync(study_uid, client=client)
    assert isinstance(study, StudyResource)
    [volume] = list_volumes.sync(client=client, study_instance_uid=study_uid, format_="nifti", kind="volume").items
    assert volume == show_volume.sync(volume.id, client=client)
    assert isinstance(volume, VolumeResource)
    file = download_volume.sync(volume.id, client=client)
    assert isinstance(file, File)
    [instance, *_] = list_instances.sync(client=client, study_instance_uid=study_uid).items
    dicom = download_instance.sync(instance.sop_instance_uid, client=client)
    assert isinstance(dicom, File)
    assert dicom.payload.read()[128:132] == b"DICM"
    missing = show_study.sync("9.9", client=client)
    assert isinstance(missing, Problem)
    kind = show_problem_type.sync(missing.type_.rpartition("/")[2], client=client)
    assert isinstance(kind, ProblemTypeResource)
    refused = delete_study.sync(study_uid, client=client)
    assert isinstance(refused, Problem)
    reconverted = reconvert_study.sync(study_uid, series_instance_uid=volume.series_instance_uid, client=client)
    stranger = show_study.sync(study_uid, client=AuthenticatedClient(base_url=url, token="wrong"))
    print(
        json.dumps(
            {
                "patient": study.patient_name,
                "volume": volume.sha256,
                "downloaded": file.payload.read().hex(),
                "missing": [missing.type_, missing.status],
                "titles": [missing.title, kind.title],
                "refused": refused.type_,
                "stranger": stranger.type_,
                "reconverted": reconverted.owed,
            }
        )
    )


main(*sys.argv[1:])
