-- Numbers that the catalogue holds and shoppers typed, by day.
-- Reads: delivered_events (with `dt`), catalogue_numbers (number: digits).
-- Gives: typed_numbers (dt, numbers).

CREATE OR REPLACE TEMPORARY VIEW queries_with_numbers AS
SELECT dt, collapse_space(fold_case(query)) AS query
FROM delivered_events
WHERE query RLIKE r'(?:\p{N}\P{N}*){7}';

-- Spark takes no SQL function of ours inside of `explode`.
CREATE OR REPLACE TEMPORARY VIEW numbers_of_queries AS
SELECT dt, numbers_of(query) AS numbers
FROM queries_with_numbers;

CREATE OR REPLACE TEMPORARY VIEW typed_numbers AS
SELECT t.dt, collect_set(t.number) AS numbers
FROM (SELECT dt, explode(numbers) AS number FROM numbers_of_queries) AS t
LEFT SEMI JOIN catalogue_numbers AS c ON c.number = t.number
GROUP BY t.dt;
