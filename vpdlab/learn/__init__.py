"""One iteration of learning. `iterate` is the page to read first: it returns an `Iteration`. `parts` opens what it acts
on, `state` has the batch and the learner, `answers` the teacher's own responses, `results` what the steps return,
`e_step` and `m_step` are the steps, `methods` the ways to learn, `checks` what fits together, `identity` sums of what a
config only names, `critic_update` an experiment."""
