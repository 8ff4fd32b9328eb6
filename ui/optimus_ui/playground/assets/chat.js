// The conversation so far, beside the prompt. Only `chat` sends it along.
const talk = {
  turns: [],

  get box() {
    return document.querySelector("#talk .talk");
  },

  // The messages of a request.
  messages(prompt, remembers) {
    if (!remembers) this.forget();
    return [...this.turns, {role: "user", content: prompt}];
  },

  // A turn is over.
  add(messages, answer) {
    this.turns = [...messages, {role: "assistant", content: answer}];
    this.show();
  },

  forget() {
    this.turns = [];
    this.show();
  },

  show() {
    if (!this.box) return;
    this.box.hidden = !this.turns.length;
    this.box.querySelector(".forget").onclick = () => this.forget();
    const turns = this.box.querySelector(".turns");
    turns.replaceChildren(
      ...this.turns.map(({role, content}) => {
        const turn = document.createElement("p");
        turn.className = role;
        turn.textContent = content;
        return turn;
      }),
    );
    turns.scrollTop = turns.scrollHeight;
  },
};
