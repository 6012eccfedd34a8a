"""The floor that every subsystem stands on: tasks with stacks, virtual time, interrupts, softirqs, timers, locks and the judge.

``core.Kernel`` is what a subsystem is handed; ``world.World`` is what machines on one clock share.
"""
