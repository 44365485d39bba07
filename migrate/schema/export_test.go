package schema

// OneByOne gives every entry a transaction of its own, so that a test can cut a run between each two of them.
func (x *Executor) OneByOne() *Executor {
	x.groupEntries = 1
	return x
}
