"""Training inside a byte budget: checkpoints, schedules, and exact predictions of what they hold."""

from thriftgrad.memory.chain import measure
from thriftgrad.memory.checkpoint import checkpoint
from thriftgrad.memory.execute import execute
from thriftgrad.memory.meter import meter
from thriftgrad.memory.plan import Plan, plan
from thriftgrad.memory.schedule import Action, Kind, Schedule, Strategy
from thriftgrad.memory.simulate import Simulation, simulate
from thriftgrad.memory.spill import bandwidth
from thriftgrad.memory.stages import Chain, Stage, Update, homogeneous
from thriftgrad.memory.strategies import (
    at,
    every,
    everything,
    mixed,
    nothing,
    optimal,
    revolve,
    sqrt,
    two_level,
)
from thriftgrad.memory.strategies.improve import Point
from thriftgrad.memory.strategies.optimal import frontier

__all__ = [
    "Action",
    "Chain",
    "Kind",
    "Plan",
    "Point",
    "Schedule",
    "Simulation",
    "Stage",
    "Strategy",
    "Update",
    "at",
    "bandwidth",
    "checkpoint",
    "every",
    "everything",
    "execute",
    "frontier",
    "homogeneous",
    "measure",
    "meter",
    "mixed",
    "nothing",
    "optimal",
    "plan",
    "revolve",
    "simulate",
    "sqrt",
    "two_level",
]
