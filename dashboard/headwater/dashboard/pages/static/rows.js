// A table whose rows keep their place in the document as long as their key is there, and with it focus and selection.
export default {
  template: `
    <div class="hw-table" tabindex="0" role="region" :aria-label="caption">
      <table v-if="rows.length">
        <caption>{{ caption }}</caption>
        <thead><tr><th v-for="column in columns" scope="col" :class="{ num: column.num }">{{ column.label }}</th></tr></thead>
        <tbody>
          <tr v-for="row in rows" :key="row.key">
            <td v-for="(cell, place) in row.cells" :class="{ num: columns[place].num, whole: columns[place].whole, blank: !cell.text || cell.text === '–' }" :data-label="columns[place].label">
              <a v-if="cell.href" :href="cell.href">{{ cell.text }}</a>
              <span v-else :class="cell.mark">{{ cell.text }}</span>
            </td>
          </tr>
        </tbody>
      </table>
      <p v-if="!rows.length" class="hw-empty">{{ empty }}</p>
    </div>`,
  props: { caption: String, columns: Array, rows: Array, empty: String },
};
