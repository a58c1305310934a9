"""The files in deploy/ are what their tools accept, no secret stands outside files, and each check can fail."""

import json
import pathlib
import re
import shutil
import subprocess
import sysconfig

import pytest
import yaml
from patience import LIMIT_S

ROOT = pathlib.Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = ["fedveil-coordinator.service", "fedveil-participant.service"]
EXPOSURE = 20
"""Highest exposure `systemd-analyze security` may report, in tenths of its scale of 10."""

SECRET_NAME = re.compile(r"(?i)pass(word|phrase)?|secret|token|private|credential|api_?key")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def _tool(name: str) -> str:
    return str(pathlib.Path(sysconfig.get_path("scripts")) / name)


def _compose() -> dict[str, dict[str, dict[str, object]]]:
    loaded: dict[str, dict[str, dict[str, object]]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def secret_settings(text: str) -> list[str]:
    """Lines of a Dockerfile or unit that put something named like a secret into the environment or a build argument."""
    setting = re.compile(r"^\s*(?:ARG|ENV|Environment=|PassEnvironment=|SetCredential=)\s*(.*)$")
    found = (setting.match(line) for line in text.replace("\\\n", " ").splitlines())
    return [match.group(0) for match in found if match and SECRET_NAME.search(match.group(1))]


def test_dockerfile_passes_hadolint() -> None:
    done = _run(_tool("hadolint"), "--no-color", str(DEPLOY / "Dockerfile"))
    assert done.returncode == 0, done.stdout


def test_hadolint_would_refuse_a_bad_dockerfile(tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd / && sudo apt-get install python3\n")
    assert _run(_tool("hadolint"), str(bad)).returncode != 0


def test_image_runs_unprivileged_from_wheels_only() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    final = text.rsplit("FROM ", 1)[1]
    assert "USER 65532:65532" in final
    assert 'CMD ["fedveil", "health"]' in final
    assert "RUN" not in re.sub(r"(?m)^#.*$", "", final), "the final stage needs no shell"
    for line in text.splitlines():
        if '"install"' in line:
            assert '"--no-index"' in line
    assert secret_settings(text) == []


@pytest.mark.parametrize(
    "line",
    ["ARG GOVERNANCE_PASSPHRASE", "ENV API_KEY=x", "Environment=FEDVEIL_TOKEN=fv1_x", "SetCredential=passphrase:x"],
)
def test_secret_settings_are_found(line: str) -> None:
    assert secret_settings(f"FROM x\n{line}\n") == [line]


def test_compose_matches_the_specification(tmp_path: pathlib.Path) -> None:
    check = (_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
    done = _run(*check, str(DEPLOY / "compose.yaml"))
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "compose.yaml"
    bad.write_text(json.dumps({"services": {"coordinator": {"image": "x", "cap_dorp": ["ALL"]}}}))
    assert _run(*check, str(bad)).returncode != 0


def test_compose_services_are_hardened() -> None:
    services = _compose()["services"]
    assert len(services) == 4
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == "65532:65532", name
        assert service["healthcheck"], name
        assert not service.get("privileged"), name


def test_compose_keeps_secrets_in_files_and_state_in_volumes() -> None:
    compose = _compose()
    for secret in compose["secrets"].values():
        assert set(secret) == {"file"}
    for name, service in compose["services"].items():
        assert "environment" not in service, name
        assert "env_file" not in service, name
        assert "governance" not in json.dumps(service), f"{name}: the governance key never belongs in a service"
        state, *_ = service["volumes"]  # type: ignore[misc]
        assert str(state).split(":")[0] in compose["volumes"]


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_what_systemd_accepts(unit: str, tmp_path: pathlib.Path) -> None:
    """The program is not installed here, so that `verify` is given one that exists in its place."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / unit).read_text()
    assert "ExecStart=/opt/fedveil/bin/fedveil " in text
    copy = tmp_path / unit
    copy.write_text(text.replace("/opt/fedveil/bin/fedveil", shutil.which("true") or "/bin/true"))
    done = _run("systemd-analyze", "verify", "--man=no", str(copy))
    assert (done.returncode, done.stderr.strip()) == (0, "")
    copy.write_text(copy.read_text().replace("UMask=0077", "UMsak=0077"))
    assert "UMsak" in _run("systemd-analyze", "verify", "--man=no", str(copy)).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_sandboxed(unit: str, tmp_path: pathlib.Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    security = ("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}")
    done = _run(*security, str(DEPLOY / unit))
    assert done.returncode == 0, done.stdout[-400:]
    open_unit = tmp_path / unit
    open_unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert _run(*security, str(open_unit)).returncode != 0


@pytest.mark.parametrize("unit", UNITS)
def test_unit_takes_its_secret_as_a_credential_and_never_governance(unit: str) -> None:
    text = (DEPLOY / unit).read_text()
    assert "LoadCredential=passphrase:/" in text
    assert "--passphrase-file %d/passphrase" in text
    assert "governance" not in text
    assert secret_settings(text) == []
