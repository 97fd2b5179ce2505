"""The development cluster's files, paths and refusals, without starting one."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from rag_hpc.errors import ClusterError, ConfigError, MissingDependency
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster import config as cfg
from rag_hpc.slurm.devcluster import control, network, nodes, prerequisites, processes

STATE = Path("/var/lib/cluster")
Config = cfg.DevClusterConfig


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a state folder that may lie in pytest's folder: these tests start no node that would hide it."""
    folder = tmp_path / "s"
    monkeypatch.setattr(cfg, "check_state", lambda path: None)
    return folder


def test_state_defaults_to_var_lib_and_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DEVCLUSTER", raising=False)
    assert dc.default_state_dir() == Path("/var/lib/rag-hpc-devcluster")
    monkeypatch.setenv("RAG_HPC_DEVCLUSTER", "/srv/dev")
    assert dc.default_state_dir() == Path("/srv/dev")


@pytest.mark.parametrize("path", ["/tmp", "/tmp/a/b", "/var/../tmp/x"])
def test_state_below_tmp_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="own /tmp"):
        Config(state=Path(path))


@pytest.mark.parametrize("path", ["/var/lib/a b", "/var/lib/a,b", "/var/lib/#a", "/var/lib/" + "x" * 70])
def test_state_that_slurm_conf_or_a_socket_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="at most 70"):
        Config(state=Path(path))


@pytest.mark.parametrize("count", [0, -1, 65])
def test_node_count_outside_its_range_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="num_nodes"):
        Config(state=STATE, num_nodes=count)


def test_slurm_conf_names_controller_address_nodes_and_partitions() -> None:
    lines = cfg.slurm_conf_text(Config(state=STATE, num_nodes=2, hostname="login")).splitlines()
    assert "SlurmctldHost=login(10.77.0.254)" in lines
    assert [line for line in lines if line.startswith("NodeName")] == [
        "NodeName=n1 NodeAddr=10.77.0.1 CPUs=2 RealMemory=5000 Gres=gpu:2 State=UNKNOWN",
        "NodeName=n2 NodeAddr=10.77.0.2 CPUs=2 RealMemory=5000 Gres=gpu:2 State=UNKNOWN",
    ]
    assert [line for line in lines if line.startswith("PartitionName")] == [
        "PartitionName=cpu Nodes=n[1-2] Default=YES PriorityTier=10 PreemptMode=OFF State=UP",
        "PartitionName=gpu Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF State=UP",
        "PartitionName=preempt Nodes=n[1-2] PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP",
    ]


def test_slurm_conf_sets_no_key_twice_and_touches_only_its_state() -> None:
    lines = [line for line in cfg.slurm_conf_text(Config(state=STATE)).splitlines() if line]
    keys = [line.split("=")[0] for line in lines if not line.startswith(("NodeName", "PartitionName"))]
    assert len(keys) == len(set(keys))
    paths = [value for line in lines for value in line.split("=")[1:] if value.startswith("/")]
    assert [path for path in paths if not path.startswith(str(STATE))] == ["/bin/true"]


def test_every_daemon_proves_itself_to_the_clusters_own_munge() -> None:
    config = Config(state=STATE)
    assert f"AuthInfo=socket={STATE}/munge/munge.socket,cred_expire=20" in cfg.slurm_conf_text(config)
    assert f"AccountingStoragePass={STATE}/munge/munge.socket" in cfg.slurm_conf_text(config)
    assert f"AuthInfo=socket={STATE}/munge/munge.socket" in cfg.slurmdbd_conf_text(config).splitlines()


def test_mariadb_has_no_network_port() -> None:
    assert "skip-networking" in cfg.mariadb_conf_text(Config(state=STATE)).splitlines()


def test_gres_conf_gives_each_gpu_a_file() -> None:
    assert cfg.gres_conf_text(Config(state=STATE)) == f"Name=gpu File={STATE}/dev/gpu[0-1]\n"


@pytest.mark.parametrize(
    ("version", "plugin"),
    [((22, 5), "cgroup/v1"), ((23, 2), "cgroup/v1"), ((23, 11), "disabled"), ((25, 5), "disabled")],
)
def test_cgroups_are_left_alone_on_every_slurm(version: tuple[int, int], plugin: str) -> None:
    assert cfg.cgroup_conf_text(version) == f"CgroupPlugin={plugin}\n"


def test_written_secrets_are_private_and_keys_differ(state: Path) -> None:
    umask = os.umask(0)
    try:
        cfg.write_files(Config(state=state), (22, 5))
        key = (state / "munge/munge.key").read_bytes()
        cfg.write_files(Config(state=state.with_name("t")), (22, 5))
    finally:
        os.umask(umask)
    modes = {
        name: stat.S_IMODE((state / name).stat().st_mode)
        for name in ("etc/slurmdbd.conf", "munge/munge.key", "mariadb", "munge")
    }
    assert modes == {"etc/slurmdbd.conf": 0o600, "munge/munge.key": 0o600, "mariadb": 0o700, "munge": 0o755}
    assert len(key) == 128 and key != (state.with_name("t") / "munge/munge.key").read_bytes()


def test_reader_of_the_hosts_file_never_finds_it_empty(tmp_path: Path) -> None:
    hosts, config, seen = tmp_path / "hosts", Config(state=STATE), set()
    hosts.write_text("127.0.0.1 localhost\n")
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            # a read may fall into the copying of a write, half old and half new; an empty file would last for two
            seen.add(any("127.0.0.1 localhost" in hosts.read_text() for _ in range(2)))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(1000):
        network.write_hosts(config, hosts)
        network.clear_hosts(hosts)
    ended.set()
    reader.join()
    assert seen == {True}


def test_names_are_known_before_anything_starts_that_looks_one_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def spawn(config: Config, name: str, argv: list[str]) -> int:
        steps.append(name)
        raise ClusterError("far enough")

    monkeypatch.setattr(network, "create_bridge", lambda config: None)
    monkeypatch.setattr(network, "write_hosts", lambda config: steps.append("names"))
    monkeypatch.setattr(control, "spawn", spawn)
    with pytest.raises(ClusterError, match="far enough"):
        control._start_all(Config(state=state))
    assert steps == ["names", "mariadb-install"]


@pytest.mark.parametrize("text", ["127.0.0.1 localhost", "127.0.0.1 localhost\n", "", "\n# mine\n\n::1 x\n"])
def test_hosts_file_comes_back_byte_for_byte(tmp_path: Path, text: str) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(text)
    network.write_hosts(Config(state=STATE, num_nodes=2), hosts)
    network.write_hosts(Config(state=STATE, num_nodes=3), hosts)  # replaces the first
    assert hosts.read_text().splitlines()[1:5] == ["10.77.0.254 ctl", "10.77.0.1 n1", "10.77.0.2 n2", "10.77.0.3 n3"]
    assert hosts.read_text().count("BEGIN") == 1
    assert network.clear_hosts(hosts) and hosts.read_text() == text
    assert not network.clear_hosts(hosts)


def test_only_folders_below_tmp_are_shared_and_none_inside_another(tmp_path: Path) -> None:
    tmp, outside = tmp_path / "tmp", tmp_path / "outside"
    for folder in (tmp / "a/b", tmp / "c", outside):
        folder.mkdir(parents=True)
    assert nodes.hidden_paths([tmp / "a/b", outside, tmp / "a", tmp / "c", tmp / "a"], tmp) == [tmp / "a", tmp / "c"]


def test_link_below_tmp_is_shared_with_the_folder_it_leads_to(tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    (tmp / "real").mkdir(parents=True)
    (tmp / "link").symlink_to(tmp / "real")
    assert nodes.hidden_paths([tmp / "link"], tmp) == [tmp / "real", tmp / "link"]


def test_share_that_is_no_folder_or_all_of_tmp_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(ConfigError, match="not a folder"):
            nodes.hidden_paths([wrong], tmp_path)
    with pytest.raises(ConfigError, match="of its own"):
        nodes.hidden_paths([tmp_path], tmp_path)


def test_current_folder_is_shared_unless_it_is_tmp_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert tmp_path in nodes.default_shares()
    monkeypatch.chdir("/tmp")
    assert Path("/tmp") not in nodes.default_shares()


def test_missing_programs_are_named_with_the_apt_line() -> None:
    missing = prerequisites.requirements(which=lambda name: None if name in ("munged", "sacct") else f"/bin/{name}")
    assert missing == [f"munge (munged), slurm-client (sacct) not installed; run: {dc.APT_LINE}"]
    assert dc.APT_LINE.startswith("apt-get install -y --no-install-recommends ")
    with pytest.raises(MissingDependency, match="apt-get install -y"):
        prerequisites.check(which=lambda name: None)


def test_library_without_its_plain_name_counts_as_missing() -> None:
    missing = prerequisites.requirements(which=lambda name: None if ".so" in name else f"/bin/{name}")
    assert missing == [f"libpmix-dev (libpmix.so) not installed; run: {dc.APT_LINE}"]
    assert prerequisites._which("libc.so.6") and prerequisites._which("libno-such-thing.so") is None


def test_makefile_installs_what_the_cluster_asks_for() -> None:
    [named] = re.findall(r"^APT := (.*)$", (Path(__file__).parents[3] / "Makefile").read_text(), re.MULTILINE)
    assert set(dc.APT_LINE.split()[4:]) - set(named.split()) == set()
    assert set(prerequisites._NEEDED) - set(named.split()) == {"util-linux"}  # which every Debian has


def test_without_root_the_refusal_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="sudo"):
        prerequisites.check(which=lambda name: f"/bin/{name}")


def test_forbidden_namespaces_are_reported_with_the_kernels_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "unshare failed: Operation not permitted\n")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", refuse)
    [reason] = prerequisites.requirements(which=lambda name: f"/bin/{name}")
    assert "Operation not permitted" in reason and "--privileged" in reason


def test_daemons_inherit_nothing_from_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PMIX_RANK", "PYTHONPATH", "OMPI_MCA_btl"):
        monkeypatch.setenv(name, "1")
    env = processes.daemon_env(Config(state=STATE))
    assert set(env) == {"PATH", "HOME", "USER", "LOGNAME", "LANG", "SLURM_CONF", processes.OWNER_VAR, "MYSQL_UNIX_PORT"}
    assert processes.OWNER_VAR not in processes.clean_env(Config(state=STATE))  # a client is not the cluster's to kill


def test_daemon_is_found_by_name_outlives_its_log_and_is_killed(state: Path) -> None:
    config = Config(state=state)
    for name in ("run", "log"):
        (state / name).mkdir(parents=True)
    pid = processes.spawn(config, "sleeper", ["sh", "-c", "echo begun; exec sleep 60"])
    try:
        assert processes.find(config, "sleeper") == pid and processes.owned_pids(state) == [pid]
        assert os.getsid(pid) == pid
        log = processes.log_file(config, "sleeper")
        processes.wait_for(lambda: log.read_text() == "begun\n", "output", timeout_s=60)
    finally:
        processes.kill([pid])
    assert processes.find(config, "sleeper") is None and processes.owned_pids(state) == []


def test_reused_pid_of_a_dead_daemon_is_not_ours(state: Path) -> None:
    config = Config(state=state)
    (state / "run").mkdir(parents=True)
    processes.pid_file(config, "slurmctld").write_text(f"{os.getpid()}\n")
    assert processes.find(config, "slurmctld") is None
    processes.pid_file(config, "slurmctld").write_text("")
    assert processes.find(config, "slurmctld") is None


def test_daemon_that_ends_is_reported_at_once_not_after_the_timeout(state: Path) -> None:
    (state / "run").mkdir(parents=True)
    with pytest.raises(ClusterError, match="slurmdbd ended while it started"):
        processes.wait_for_daemon(Config(state=state), "slurmdbd", lambda: False, timeout_s=1000)


def test_waiting_and_running_name_what_failed() -> None:
    with pytest.raises(ClusterError, match="waited 0 s for the moon"):
        processes.wait_for(lambda: False, "the moon", timeout_s=0)
    with pytest.raises(ClusterError, match="exit 3: gone"):
        processes.run(["sh", "-c", "echo gone >&2; exit 3"])
    with pytest.raises(ClusterError, match="no-such-program"):
        processes.run(["no-such-program"])


def test_status_and_down_where_nothing_is(tmp_path: Path, state: Path) -> None:
    assert dc.status(state)["up"] is False
    assert dc.down(state) == []
    assert not state.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "/abs"])
def test_shared_folder_needs_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigError, match="plain name"):
        dc.DevCluster(Config(state=STATE)).mkshared(name)


def test_unknown_node_is_refused_with_the_known_ones() -> None:
    cluster = dc.DevCluster(Config(state=STATE, num_nodes=2))
    for act in (cluster.cut, cluster.heal, cluster.kill_slurmd, cluster.start_slurmd):
        with pytest.raises(ConfigError, match="nodes: n1, n2"):
            act("n3")
    with pytest.raises(ClusterError, match="no node 'n1' is up"):
        cluster.run_on("n1", ["true"])


def test_what_the_cluster_makes_can_be_entered_whatever_the_users_umask(tmp_path: Path) -> None:
    from rag_hpc.slurm.devcluster.control import readable_by_all

    before = os.umask(0o077)
    try:
        with readable_by_all():
            (tmp_path / "munge").mkdir()
        assert (tmp_path / "munge").stat().st_mode & 0o777 == 0o755
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
