"""A Slurm cluster of two nodes on this machine, without root and without munge.

`python tests/launch/conftest.py FOLDER` holds one until Ctrl-C, to try jobs by hand.
"""

# As root or not, all daemons are those of one user, who trusts every one who says to be him.
# A node is no machine of its own: both have this one's address, and ports of their own. CPUs are
# made up, and so are GPUs: two devices that any machine has.
CONF = """
ClusterName=here
SlurmctldHost={host}
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=15
SlurmdTimeout=10
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=1
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:{gpus}
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:{gpus}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=15 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 GraceTime=15 State=UP
"""
