-- What each place of a list got on the days of training.
-- Reads: clicks_by_position (of all days), catalogue (prepare-items).
-- Parameters: first_day, last_day (of training), positions (places further down count as the last).
-- Gives: training_clicks_by_position, position_totals.

CREATE OR REPLACE TEMPORARY VIEW training_clicks_by_position AS
SELECT p.query, p.item_id, least(p.position, :positions) AS position, p.impressions, p.clicks
FROM clicks_by_position AS p
LEFT SEMI JOIN catalogue AS c ON c.item_id = p.item_id
WHERE p.day BETWEEN :first_day AND :last_day;

CREATE OR REPLACE TEMPORARY VIEW position_totals AS
SELECT position, sum(impressions) AS impressions, sum(clicks) AS clicks
FROM training_clicks_by_position
GROUP BY position;
