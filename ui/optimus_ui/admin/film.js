// What a request looked like after each of its steps, from the steps that the log has kept.

export class Film {
  constructor({ first, last, block, words, steps }) {
    Object.assign(this, { first, block, words, steps, size: last - first });
    // For each position the step, from 1, that committed it; 0 for never.
    this.committed = new Uint32Array(this.size);
    this.sure = new Uint8Array(this.size);
    steps.forEach((step, i) => step.positions.forEach((position, j) => {
      this.committed[position - first] = i + 1;
      this.sure[position - first] = step.percents[j];
    }));
  }

  // A letter for each position after step `number`, from 1: masked, computed, fresh, held or sent.
  states(number) {
    const step = this.steps[number - 1], frontier = step.frontier + step.advance - this.first;
    const letters = [];
    for (let at = 0; at < this.size; at++) {
      const by = this.committed[at];
      if (by === number) letters.push("f");
      else if (by && by < number) letters.push(at < frontier ? "s" : "h");
      else letters.push(at + this.first >= step.start && at + this.first < step.stop ? "c" : "m");
    }
    return letters;
  }

  word(at) {
    return this.words ? this.words[at] : "▪";
  }

  // Where a block begins.
  edge(at) {
    return at > 0 && this.block > 0 && (at + this.first) % this.block === 0;
  }
}
