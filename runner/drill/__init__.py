"""`python -m runner.drill`: breaks small runs in many ways and says which of the faults they survived.

A drill reads along one arrow:

    run -> Drill.measure (an undisturbed run) -> choose_next -> Fault.inject(TargetRun) -> differences -> table

`faults` lists what is done, most important first; `killing`, `stopping` and `damaging` do it to a `TargetRun`, which
is one run of the training command in a folder of its own. Only processes that the drill started are ended.
"""
