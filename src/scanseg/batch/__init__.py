"""Many photos: a plan of shards, processes that claim and commit them, tables of results.

``sources`` lists photos and reads them, ``plan`` divides them into shards, ``claims`` says who
works on which shard, ``tables`` turns maps into rows and commits them, ``worker`` holds the model.
``local`` and ``ray_engine`` are the two ways to run workers; both write the same files. Everything
passes through the output folder, so any number of machines that see it may take part
(``docs/batch.md``).
"""
