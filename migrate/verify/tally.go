package verify

// tally is what a chunk adds to its table's report.
type tally struct {
	limit                                int
	sourceRows, targetRows               int64
	chunks, left                         int64
	missing, extra, different, unsettled int64
	differences                          []Difference
}

// note counts a difference and lists it while there is room.
func (y *tally) note(d Difference, rows int64) {
	switch d.Kind {
	case RowMissing:
		y.missing += rows
	case RowExtra:
		y.extra += rows
	case RowDifferent:
		y.different += rows
	case RowUnsettled:
		y.unsettled += rows
	}
	if len(y.differences) < y.limit {
		y.differences = append(y.differences, d)
	}
}

// add puts a chunk's tally into the table's report and tells the progress.
func (t *table) add(y tally) {
	t.run.mu.Lock()
	r := &t.report
	r.SourceRows += y.sourceRows
	r.TargetRows += y.targetRows
	r.Chunks += y.chunks
	r.ChunksLeft += y.left
	r.Missing += y.missing
	r.Extra += y.extra
	r.Different += y.different
	r.Unsettled += y.unsettled
	room := t.run.MaxDifferences - len(r.Differences)
	r.Differences = append(r.Differences, y.differences[:min(room, len(y.differences))]...)
	t.run.progress.Differences += y.missing + y.extra + y.different
	t.run.mu.Unlock()
	t.run.tell(t, y.sourceRows)
}

func (t *table) skipChunk() {
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	t.report.ChunksLeft++
}
