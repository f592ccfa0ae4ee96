// The tree: rows of parents, each with a cell for each child. It takes a whole picture, or what changed in it.
export default {
  template: `
    <div class="hw-tree" :class="{ named }" role="list" aria-label="The fleet's tree">
      <div v-for="row in rows" :key="row.id" class="hw-row" role="listitem"
               :style="{ '--depth': row.depth }" :data-depth="row.depth" :data-node="row.id">
        <i v-for="level in row.depth ? row.rails : []" class="hw-rail" :style="{ '--level': row.depth - level }" aria-hidden="true"></i>
        <div v-if="row.depth" class="hw-edge" :class="row.flow" aria-hidden="true"><i></i><b></b></div>
        <header>
          <a class="hw-parent" :href="'/node/' + row.id" :class="row.state">
            <span class="hw-role" aria-hidden="true">{{ glyph(row.role) }}</span>{{ row.id }}
          </a>
          <span class="hw-state" :class="row.state">{{ row.state }}</span>
          <span class="hw-words">{{ row.words }}</span>
          <span class="hw-bar" v-if="row.progress !== null" role="progressbar" aria-label="updates that are in"
                aria-valuemin="0" aria-valuemax="100" :aria-valuenow="Math.round(row.progress * 100)">
            <span :style="{ width: row.progress * 100 + '%' }"></span>
          </span>
          <span class="hw-bytes" v-if="row.down" :title="row.down + ' down and ' + row.up + ' up in this round'">
            ↓ {{ row.down }} ↑ {{ row.up }}
          </span>
        </header>
        <div class="hw-cells" v-if="row.cells.length">
          <a v-for="cell in row.cells" :key="cell[0]" :href="'/node/' + cell[0]" class="hw-cell" :class="cell[1]"
             :title="cell[0] + ': ' + words[cell[1]]" :aria-label="cell[0] + ': ' + words[cell[1]]">{{
             named ? cell[0] : "" }}</a>
          <span v-if="row.more" class="hw-more">{{ row.more }}</span>
        </div>
      </div>
    </div>`,
  props: { picture: Object, words: Object },
  data() {
    return { rows: [], named: true };
  },
  created() {
    this.put(this.picture);
  },
  methods: {
    put(picture) {
      this.rows = JSON.parse(JSON.stringify(picture.rows));
      this.named = picture.named;
    },
    patch(patch) {
      if (patch.whole) return this.put(patch.whole);
      for (const [place, changes] of Object.entries(patch.rows)) {
        const { cells, ...fields } = changes;
        Object.assign(this.rows[place], fields);
        for (const [cell, state] of Object.entries(cells || {})) this.rows[place].cells[cell][1] = state;
      }
    },
    glyph: (role) => ({ cloud: "☁", gateway: "⬢" })[role] || "▪",
  },
};
