-- From here on changes are noted. The countries are in their table already: resync has them read.

SELECT sluice.track('atlas.countries', stream => 'countries', key => 'code');
SELECT sluice.resync('countries');

SELECT sluice.track('atlas.cities', stream => 'cities', key => 'id');
-- A city's document shows its country, too.
SELECT sluice.track('atlas.countries', stream => 'cities', columns => '{name, region, languages}',
    affects => 'SELECT id FROM atlas.cities WHERE country = $1.code');
