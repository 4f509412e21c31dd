"""Batch scoring: a trained edition over many users, pairs or flows, into Parquet.

Enter through `job.score`, which runs a `Job` (`recommender.RecommenderJob`, `traffic.TrafficJob`)
unit by unit and block by block. `output` is the folder that parts appear in whole, `inputs` finds
and opens what is read, `staging` sorts tables by user when they do not fit in memory. A job is a
small description that any process can open, so that an engine may spread its units.
`user_scores` is what a recommender's job opens: an edition over buckets of users.
"""
