"""`python -m runner.drill`: breaks small runs in many ways, and reports which faults they survived.

A drill reads along one arrow:

    run -> Drill.run -> Drill.measure (an undisturbed run) -> choose_next -> Drill.try_fault -> Fault.inject(TargetRun)
    -> TargetRun.recovered -> TargetRun.finish -> differences -> print_results

`faults/catalogue.py` lists the faults, the most important first. `killing`, `stopping` and `damaging` inject them into
a `TargetRun`, which is one run of the training command in a separate folder. The drill ends only processes that it has
started.
"""
