function fit(section) {
  section.style.fontSize = "";
  const images = section.querySelectorAll("img");
  images.forEach(image => { image.style.maxHeight = "" });
  const tooLarge = () => section.scrollHeight > HEIGHT || section.scrollWidth > WIDTH;
  for (let size = 96; size >= 48 && tooLarge(); size -= 4) {
    section.style.fontSize = size + "%";
    images.forEach(image => { image.style.maxHeight = 5 * size + "px"; image.style.minHeight = 0 });
  }
}
const WIDTH = 1280, HEIGHT = 720, leaves = () => document.querySelectorAll(".slides section:not(:has(section))");
Reveal.initialize({ width: WIDTH, height: HEIGHT, margin: 0.03, center: false, hash: true, slideNumber: "c/t",
  transition: "none", controlsTutorial: false, navigationMode: "linear", plugins: [RevealNotes] });
Reveal.on("ready", event => fit(event.currentSlide));
Reveal.on("slidechanged", event => fit(event.currentSlide));
leaves().forEach(section => section.addEventListener("toggle", () => fit(section), true));
