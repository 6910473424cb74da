"""What tasks share: `options` (typed), `reading` (files), `splits` (duplicates, ids, held-out problems), `outcomes` and
`guard` (judges that are anyone's code), `programs` and `markdown` (programs in a response), `code_sources` (formats of
code data sets), `math_forms` and `math_worker` (mathematical answers)."""
