"""A benchmark for the reward itself: does it rank actions as an engineer would, what does it pay for nothing, how
fast is it?

`python -m benchmarks.reward_ranking --data DIR` prints tables and, as its last line, one JSON object. Four parts:

- ranking: triples (expert action, better, worse) made from real actions by the rules of `better`, `worse` and
  `harmless`; a reward is right where it pays `better` strictly more. The rules were written without sight of our
  structured reward and were not changed after it was first run on them.
- trivial: a constant, the last action again, a random expert action, and the expert's own action written otherwise.
- groups: the same among real samples of a policy, by percentile, and the share of groups that keep a spread.
- speed: equality with CPython's difflib, and time.

Checked by hand: 15 or more triples of each category were read, those of the rarer formats apart. What was dropped or
narrowed because an engineer might disagree: a remark after the last line of a replaced text (the line may go on in
the file: it now goes before, where a line begins), conditions turned round in prose, `-A 5` before an existing `|
head`, flags that take the next word, bundles such as `-rsx` of pytest taken apart, heredocs that the shell expands,
patterns that share a word with the expert's. What a reader may still dispute: `| head -100` after a run of tests can
hide their end, and a `create` call for a heredoc is another tool.

Left out: actions of no known form (about 30 percent: long pipelines, lists of commands, inline Python) are in no
triple. They are in all other parts.
"""
