package fl

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"zos.internal/flist/config"
	"zos.internal/internal/fault"
)

func (t Tag) check() error {
	if t.Key == "" || len(t.Key) > MaxTagKey || len(t.Value) > MaxTag ||
		!utf8.ValidString(t.Key) || !utf8.ValidString(t.Value) || strings.IndexByte(t.Key+t.Value, 0) >= 0 {
		return fault.Errorf(fault.Invalid, "the tag %.60q must be text with a key of 1 to %d bytes and a value of at most %d", t.Key, MaxTagKey, MaxTag)
	}
	return nil
}

func sortTags(ts []Tag) {
	slices.SortFunc(ts, func(a, b Tag) int { return cmp.Compare(a.Key, b.Key) })
}

// tagsToLabels adds every tag as a label. The id of the image that was
// exported stays out: it says where the file comes from, and an image that
// names another would get another id for the same files.
func tagsToLabels(ts []Tag, c *config.Config) {
	for _, t := range ts {
		if t.Key == IDTag {
			continue
		}
		if c.Labels == nil {
			c.Labels = make(map[string]string)
		}
		c.Labels[LabelPrefix+t.Key] = t.Value
	}
}

// labelsToTags is the inverse, sorted; other labels are returned by name.
func labelsToTags(c *config.Config, id string) (tags []Tag, lost []string) {
	for k, v := range c.Labels {
		key, ok := strings.CutPrefix(k, LabelPrefix)
		switch t := (Tag{key, v}); {
		case !ok || t.check() != nil:
			lost = append(lost, k)
		case key != IDTag:
			tags = append(tags, t)
		}
	}
	if id != "" {
		tags = append(tags, Tag{IDTag, id})
	}
	sortTags(tags)
	slices.Sort(lost)
	return tags, lost
}
