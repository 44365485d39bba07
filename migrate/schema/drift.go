package schema

import "slices"

// Drift compares the tables whose rows were copied with a later catalog of the same selection and describes those that
// have appeared on the source or gone since, sorted. DDL is not followed, so a migration that completed in spite of it
// would leave something out without a word.
func Drift(copied map[Name]bool, now *Catalog) []string {
	var drift []string
	there := make(map[Name]bool, len(now.Tables))
	for _, t := range now.Tables {
		there[t.Name] = true
		if t.Kind == Ordinary && !copied[t.Name] {
			drift = append(drift, "table "+t.Name.String()+" appeared on the source after its structure was copied")
		}
	}
	for _, t := range now.ConfigTables {
		there[t.Name] = true
	}
	for n := range copied {
		if !there[n] {
			drift = append(drift, "table "+n.String()+" was dropped or renamed on the source after its structure was copied")
		}
	}
	slices.Sort(drift)
	return drift
}
