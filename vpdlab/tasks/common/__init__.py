"""Shared code of the tasks: `options` (typed), `reading` (files), `splits` (duplicates, ids, held-out problems),
`outcomes` and `guard` (user-defined judges), `programs` and `markdown` (programs in a response), `code_sources` (code
data sets), `math_forms`, `math_notation`, `math_units`, `math_worker` (mathematical answers), `critics` (feedback for
reasoning-gym), `lexicon` (operations, phrases and critics of the task of that name), `probes` (what a task measures at
each evaluation), `episodes` and `tools` (what environments see and answer, and the calls of their tools),
`verifiers_package` (the package `verifiers`, driven from outside)."""
