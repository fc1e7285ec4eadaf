"""Prose of our own in fourteen languages, a few sentences each, and the encodings that people keep such texts in."""

TEXTS = {
    "English": [
        "The keeper’s log begins in March, when the wind turned and the boat couldn’t land.",
        "“Oil enough for nine nights,” he wrote, “and a letter for my sister.”",
        "Nobody came—not even the baker’s boy, who was never afraid of rain.",
        "By then the café on the pier had closed; its naïve sign still promised soup for £2.",
    ],
    "German": [
        "Der Wärter öffnete früh die Tür und sah über die graue Fläche, auf der kein Schiff fuhr.",
        "Für die Lampe brauchte er täglich zwölf Maß Öl; größere Fässer ließen sich nicht die Stufen hinauftragen.",
        "Seine Schwester schrieb ihm, daß die Äpfel reif seien und die Gänse schon über den Hügel zögen.",
        "Natürlich wußte er, was das hieß: Übermorgen würde es stürmen.",
    ],
    "French": [
        "Le gardien écrivait chaque soir dans un cahier à carreaux, près de la fenêtre où brûlait une lampe.",
        "Après l’été, les bateaux étaient rares; on n’entendait que la mer et, très loin, une cloche fêlée.",
        "Il avait déjà reçu deux lettres de sa sœur, qui espérait le voir à Noël.",
        "« Ça dépend du vent », répétait-il, et l’hôtelière hochait la tête d’un air résigné.",
    ],
    "Spanish": [
        "El farero apuntó que la niña del pueblo había traído pan, queso y una canción pequeña.",
        "¿Quién encendería la lámpara mañana, si el viento seguía soplando así?",
        "Según el médico, necesitaba descansar; él prefería subir los escalones, uno por uno, sin prisa.",
        "El señor Núñez llegó después de la misa con más aceite y un periódico del año pasado.",
    ],
    "Polish": [
        "Latarnik wstał wcześnie, żeby zdążyć przed świtem napełnić lampę i wyczyścić szkło.",
        "Łódź z miasta miała przypłynąć w czwartek, ale wiatr był zbyt silny i nikt nie odważył się wyjść w morze.",
        "Siostra pisała, że jabłka już dojrzały, a gęsi odleciały za rzekę.",
        "Wieczorem usłyszał dźwięk dzwonu; może to tylko mgła niosła głos z tamtego brzegu.",
    ],
    "Czech": [
        "Strážce majáku vstal dřív než slunce, protože chtěl ještě před svítáním vyčistit sklo a doplnit olej.",
        "Loď z města měla připlout ve čtvrtek, ale vítr byl příliš silný a nikdo se neodvážil vyplout.",
        "Sestra mu psala, že jablka už dozrála a že husy odletěly daleko za řeku.",
        "Večer zaslechl zvon; možná to jen mlha přinášela hlas z druhého břehu, řekl si.",
    ],
    "Hungarian": [
        "A világítótorony őre korán kelt, hogy napkelte előtt megtisztítsa az üveget, és olajat töltsön a lámpába.",
        "A hajónak csütörtökön kellett volna megérkeznie, de túl erős volt a szél, és senki sem mert kifutni.",
        "Nővére azt írta, hogy az almák már megértek, a vadludak pedig elhúztak a folyó fölött.",
        "Este harangszót hallott; talán csak a köd hozta át a hangot a túlsó partról.",
    ],
    "Russian": [
        "Смотритель маяка проснулся до рассвета, чтобы протереть стекло и долить масла в лампу.",
        "Лодка из города должна была прийти в четверг, но ветер был слишком сильным, и никто не решился выйти в море.",
        "Сестра писала ему, что яблоки уже созрели, а гуси улетели далеко за реку.",
        "Вечером он услышал колокол; может быть, это туман принёс звук с другого берега.",
    ],
    "Ukrainian": [
        "Доглядач маяка прокинувся ще до світанку, щоб протерти скло й долити олії в лампу.",
        "Човен із міста мав прийти в четвер, але вітер був надто сильний, і ніхто не наважився вийти в море.",
        "Сестра писала йому, що яблука вже достигли, а гуси полетіли далеко за річку.",
        "Увечері він почув дзвін; можливо, то туман приніс його звук з іншого берега.",
    ],
    "Greek": [
        "Ο φαροφύλακας ξύπνησε πριν από την αυγή, για να καθαρίσει το τζάμι και να βάλει λάδι στη λάμπα.",
        "Η βάρκα από την πόλη θα ερχόταν την Πέμπτη, αλλά ο άνεμος ήταν πολύ δυνατός και κανείς δεν τόλμησε να βγει.",
        "Η αδελφή του έγραφε ότι τα μήλα είχαν ωριμάσει και ότι οι χήνες έφυγαν μακριά, πέρα από το ποτάμι.",
        "Το βράδυ άκουσε μια καμπάνα· ίσως η ομίχλη έφερνε τη φωνή της από την άλλη όχθη.",
    ],
    "Turkish": [
        "Fener bekçisi, camı silmek ve lambaya yağ koymak için güneş doğmadan önce uyandı.",
        "Şehirden gelecek kayık perşembe günü burada olacaktı, ama rüzgâr çok güçlüydü ve kimse denize açılmadı.",
        "Kız kardeşi, elmaların artık olgunlaştığını ve kazların ırmağın ötesine uçtuğunu yazıyordu.",
        "Akşam bir çan sesi duydu; belki de sis, sesi karşı kıyıdan getiriyordu.",
    ],
    "Japanese": [
        "灯台守は夜明け前に起きて、ガラスを磨き、ランプに油を足した。",
        "町からの船は木曜日に来るはずだったが、風が強すぎて、誰も海へ出ようとしなかった。",
        "妹の手紙には、りんごがもう熟したこと、そして雁が川の向こうへ飛んでいったことが書いてあった。",
        "夕方、鐘の音が聞こえた。霧が向こう岸から運んできただけかもしれない。",
    ],
    "Chinese": [
        "守灯塔的人在天亮以前起床，把玻璃擦干净，又给灯添了油。",
        "城里的船本来应该星期四到，可是风太大了，谁也不敢出海。",
        "妹妹在信里说，苹果已经熟了，大雁也飞到河对面去了。",
        "晚上他听见一阵钟声；也许只是雾把对岸的声音带了过来。",
    ],
    "Traditional Chinese": [
        "守燈塔的人在天亮以前起床，把玻璃擦乾淨，又給燈添了油。",
        "城裡的船本來應該星期四到，可是風太大了，誰也不敢出海。",
        "妹妹在信裡說，蘋果已經熟了，大雁也飛到河對面去了。",
        "晚上他聽見一陣鐘聲；也許只是霧把對岸的聲音帶了過來。",
    ],
    "Korean": [
        "등대지기는 동이 트기 전에 일어나 유리를 닦고 등불에 기름을 더 부었다.",
        "마을에서 오는 배는 목요일에 도착할 예정이었지만 바람이 너무 세서 아무도 바다로 나가지 못했다.",
        "누이의 편지에는 사과가 벌써 익었고 기러기가 강 건너로 날아갔다고 쓰여 있었다.",
        "저녁에 종소리가 들렸다. 어쩌면 안개가 건너편 기슭에서 실어 온 소리인지도 모른다.",
    ],
}
WESTERN = ["cp1252", "latin_1", "iso8859_15", "cp850", "cp437", "mac_roman"]
ENCODINGS = {
    "English": ["cp1252", "mac_roman"],
    "German": WESTERN,
    "French": WESTERN,
    "Spanish": WESTERN,
    "Polish": ["cp1250", "iso8859_2", "cp852", "mac_latin2"],
    "Czech": ["cp1250", "iso8859_2", "cp852"],
    "Hungarian": ["cp1250", "iso8859_2", "cp852"],
    "Russian": ["cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"],
    "Ukrainian": ["cp1251", "koi8_u", "iso8859_5"],
    "Greek": ["cp1253", "iso8859_7"],
    "Turkish": ["cp1254", "iso8859_9"],
    "Japanese": ["cp932", "euc_jp", "iso2022_jp"],
    "Chinese": ["gb18030", "gbk", "gb2312"],
    "Traditional Chinese": ["big5"],
    "Korean": ["cp949", "euc_kr"],
}
UNICODE = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
