"""Missing connections of a data set: embed, search, score, judge, write; on plain callables, without LAVIS."""
