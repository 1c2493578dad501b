"""What PBS says when it does not take a job.

Source: the texts of pbs_messages.c in OpenPBS 23.06, checked 2026-11.
"""

from __future__ import annotations

from rhapsody.deploy.schedulers.ask import Refusal

PASSING = (
    Refusal(
        r"maximum number of jobs|would exceed .*limit|too many jobs",
        "you have as many jobs in the queue as you may",
        "Wait until some have ended, or delete some: qstat -u $USER",
    ),
    Refusal(
        r"cannot connect to server|connection refused|no free connections|connection table full|server shutting down"
        r"|end of file|timed out|temporarily unavailable|could not contact|licen[sc]e|pbs server internal error"
        r"|system error|communication failure",
        "its server does not answer",
        "Nothing is wrong with what you asked for; try again in some minutes",
    ),
    Refusal(
        r"queue is not enabled|queue is not started",
        "the queue is closed at the moment",
        "Try again later, or choose another with -q: qstat -Q shows those that are open",
    ),
)
"""Refusals that may be over soon."""

SPEC = (
    Refusal(
        r"unknown queue|no default queue|access to queue is denied",
        "there is no such queue, or you may not use it",
        "Choose another with -q; `qstat -Q` lists those that there are",
    ),
    Refusal(
        r"invalid account|\baccount\b|\bproject\b|allocation|no active balance|bad gid",
        "the account is wrong, may not be used here, or is used up",
        "Choose another with -A; the site's own command lists yours",
    ),
    Refusal(
        r"violates queue and/or server resource limits|rejected by all possible destinations|exceeds allowable"
        r"|queue resource limits",
        "the number of nodes or the time is outside of what this queue takes",
        "Ask for other --nodes or --walltime, or choose another queue with -q; `qstat -Qf` shows the limits",
    ),
    Refusal(
        r"unknown resource|resource invalid in|illegal attribute or resource value|cannot be used with"
        r"|duplicated resource|undefined attribute|node\(s\) specification error",
        "it does not know, or does not take, a resource of the script",
        "See the -l lines of the script: its names and values come from the site's profile or from your request",
    ),
    Refusal(
        r"invalid job dependency|unknown job id",
        "there is no such job to wait for",
        "Correct or leave out the job id after which this one is to begin",
    ),
    Refusal(
        r"unknown reservation|reservation",
        "there is no such reservation, it is over, or it is not for you",
        "Leave it out, or choose another: pbs_rstat",
    ),
    Refusal(
        r"usage:|illegal -|invalid option|unrecognized option|requires an argument",
        "it does not know an option of the script",
        "Take it out of the options of the site's profile or of your request",
    ),
    Refusal(
        r"cannot open|script file|no such file",
        "it cannot read the script",
        "See that the script is there and readable where you submit",
    ),
    Refusal(
        r"unauthorized request|bad uid|permission denied|access from host not allowed|invalid credential",
        "you may not submit jobs here",
        "Ask the site whether your account is active on this machine",
    ),
    Refusal(
        r"hook|rejected",
        "it breaks a rule of this site",
        "What it said should name the rule; the site's user guide has them",
    ),
)
"""Refusals that come again with the same script."""
