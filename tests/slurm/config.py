"""Configuration files of a Slurm for tests: everything in one folder, waits in seconds instead of minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOGIN = "login"
CLUSTER = "testcluster"
CORES, GPUS = 4, 2
"""Of each node, whatever the machine has."""
PROCTRACK = "proctrack/pgid"
"""Of the ways that work everywhere the one most like proctrack/cgroup, which sites have: a signal other than SIGKILL
goes to what Slurm itself started, here with its process group, and not to all descendants as with proctrack/linuxproc.
Source: Slurm 22.05, src/plugins/proctrack. Checked 2026-11."""
CRED_EXPIRE_S = 5
"""So long a requeued job waits before it starts again; the default is two minutes. Source: slurm.conf(5), AuthInfo."""


def slurm_conf(folder: Path, nodes: Sequence[str]) -> str:
    """Return slurm.conf.

    Args:
        folder: For all of Slurm's files.
        nodes: Names of the compute nodes.
    """
    socket = folder / "munge/socket"
    return f"""\
ClusterName={CLUSTER}
SlurmctldHost={LOGIN}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire={CRED_EXPIRE_S}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
ProctrackType={PROCTRACK}
TaskPlugin=task/affinity
TaskPluginParam=none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobRequeue=1
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
EnforcePartLimits=ALL
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={LOGIN}
AccountingStoragePass={socket}
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
NodeName={",".join(nodes)} CPUs={CORES} RealMemory=4000 Gres=gpu:{GPUS}
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 DefaultTime=00:30:00 State=UP
PartitionName=short Nodes=ALL MaxTime=00:02:00 DefaultTime=00:01:00 State=UP
"""


def gres_conf(folder: Path) -> str:
    """Return gres.conf: the GPUs are other names of /dev/null."""
    return f"Name=gpu File={folder}/dev/gpu[0-{GPUS - 1}]\n"


def slurmdbd_conf(folder: Path) -> str:
    """Return slurmdbd.conf; the database listens to the login node only."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={LOGIN}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


DATABASE = """\
create database slurm_acct_db;
create user 'slurm'@'127.0.0.1' identified by 'slurm';
grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
"""
"""What the database is told before slurmdbd starts."""
